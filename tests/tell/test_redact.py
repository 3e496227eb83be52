"""Redaction: no secret survives, nothing ordinary is lost."""

from __future__ import annotations

import json
import string
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsloth_watch.model.diagnosis import Culprit
from unsloth_watch.tell.redact import HUNTED_LIMIT, Redactor
from unsloth_watch.tell.secretname import is_secret

pytestmark = pytest.mark.quick

HF = "hf_QwErTyUiOpAsDfGhJkLzXcVbNmQwErTy12"
HEX40 = "0123456789abcdef0123456789abcdef01234567"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx\nq83+/w==\n-----END RSA PRIVATE KEY-----"

SECRETS_BY_SHAPE_OR_PLACE = [
    (f"token is {HF}, thanks", HF),
    (f"\\n{HF}\\n", HF),
    (f"https://x/%20{HF}", HF),
    (f"\x1b[32m{HF}\x1b[0m", HF),
    (f"wandb: paste your key: {HEX40}", HEX40),
    (f"wandb login {HEX40}", HEX40),
    ("export OPENAI_API_KEY=sk-proj-Ab12Cd34Ef56Gh78Ij90", "sk-proj-Ab12Cd34Ef56Gh78Ij90"),
    ("\\nsk-ant-Ab12Cd34Ef56Gh78Ij90", "sk-ant-Ab12Cd34Ef56Gh78Ij90"),
    ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
    ("github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz", "github_pat_11ABCDEFG0123456789_abcdefghijklmnopqrstuvwxyz"),
    ("id AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
    ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-_1", "eyJzdWIiOiIxMjM0NTY3ODkwIn0"),
    ("Authorization: Bearer abcdef.123456", "abcdef.123456"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    ("Cookie: session=abc123; theme=dark", "session=abc123"),
    ("postgres://bob:s3cr@t:x@db/x", "s3cr@t:x"),
    ("git clone https://0123456789abcdef0123@github.com/x/y", "0123456789abcdef0123"),
    ("GET /x?token=abc&page=2", "=abc&"),
    ("GET /x?page=2&X-Amz-Signature=00ff00ff", "00ff00ff"),
    ('{"url":"https://x/?a=1\\u0026api_key=zz19"}', "zz19"),
    ("train.py --token abc123def", "abc123def"),
    ("train.py --hf_token=abc123def", "abc123def"),
    ("train.py --password='hunter2'", "hunter2"),
    ("['train.py', '--api-key', 'abc123def']", "abc123def"),
    ("DB_PASSWORD=hunter2 python x.py", "hunter2"),
    ('{"api_key": "abcd1234efgh5678"}', "abcd1234efgh5678"),
    (PEM, "MIIEowIBAAKCAQEAx"),
    (json.dumps(PEM), "MIIEowIBAAKCAQEAx"),
    (PEM[:60], "MIIEowIBAAKCAQEAx"),
]

ORDINARY = [
    "{'loss': 1.2345, 'grad_norm': 0.5, 'learning_rate': 2e-05, 'epoch': 0.12}",
    " 12%|█▏        | 30/250 [01:02<07:30,  2.05s/it]",
    f"HEAD is now at {HEX40} fix the tokenizer",
    f"wandb: git commit {HEX40}",
    f"unsloth @ git+https://github.com/unslothai/unsloth@{HEX40}",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "--hash=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "550e8400-e29b-41d4-a716-446655440000",
    "/dev/disk-550e8400-e29b-41d4-a716-446655440000",
    "task-0123456789abcdef0123456789",
    "/home/ana/.cache/huggingface/hub/models--unsloth--Llama-3.2-1B/snapshots/" + HEX40,
    "/home/ana/.cache/huggingface/token",
    "TOKENIZERS_PARALLELISM=false",
    "train.py --pad-token '<pad>' --eos_token </s> --max_tokens 4096 --tokenizer meta-llama/Llama-3",
    "Added tokens: bos_token='<|begin_of_text|>', pad_token=\"<|finetune_right_pad_id|>\"",
    "torch.nn.MultiheadAttention(key=value, query=x)",
    "for key, value in items: self.keys[key] = value",
    "KeyError: 'model.embed_tokens.weight'",
    "Basic configuration loaded; Bearer authentication is off",
    "hf_hub_download(repo_id='x') and hf_transfer, hf_quantizer",
    "SORT_KEY=length AUTH=basic monkey=banana1234 author=someone2024",
    "attn_implementation='sdpa', pass=1, compass=north99999",
    "http://localhost:8080/x?page=2&size=10",
    "unsloth#1898: freeze at model load, see user@example.com",
    'File "/opt/venv/lib/python3.11/site-packages/torch/_dynamo/guards.py", line 12, in key_token',
]


@pytest.mark.parametrize(("text", "secret"), SECRETS_BY_SHAPE_OR_PLACE)
def test_a_secret_that_its_shape_or_place_betrays_is_replaced(text: str, secret: str) -> None:
    redacted = Redactor({}).text(text)
    assert secret in text
    assert secret not in redacted
    assert "‹" in redacted


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_output_is_left_as_it_is(text: str) -> None:
    redactor = Redactor({"HF_TOKEN": HF, "TOKENIZERS_PARALLELISM": "false", "SORT_KEY": "length", "HF_TOKEN_PATH": "/home/ana"})
    assert redactor.text(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_AUTH_SOCK", "/tmp/ssh-1/agent.2"),
        ("MAX_TOKENS", "4096000"),
        ("USE_AUTH", "enabled"),
        ("SORT_KEY", "descending"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("PAD_TOKEN", "<|endoftext|>"),
        ("KEYBOARD_LAYOUT", "dvorak-2"),
        ("PATH", "/usr/bin:/bin"),
    ],
)
def test_a_variable_that_holds_no_secret_is_not_hunted(name: str, value: str) -> None:
    assert Redactor({name: value}).text(f"it is {value} here") == f"it is {value} here"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "MY_PASSWD",
        "GOOGLE_CREDENTIALS",
        "SENTRY_DSN",
        "X_COOKIE",
        "NPM_AUTH",
    ],
)
def test_the_value_of_a_variable_that_says_secret_is_replaced_anywhere(name: str) -> None:
    assert Redactor({name: "Zx81+abC/9"}).text("a Zx81+abC/9 b").startswith("a ‹")


def test_the_same_secret_is_the_same_placeholder_in_text_and_in_data() -> None:
    redactor = Redactor({"HF_TOKEN": HF})
    assert redactor.text(HF) == redactor.value({"x": [HF]})["x"][0] == "‹token-1›"
    assert redactor.text("--token Other1234 ") == "--token ‹token-2› "
    assert redactor.text("again Other1234") == "again ‹token-2›"


def test_what_one_place_betrays_is_replaced_before_that_place_too() -> None:
    assert "hunter2" not in Redactor({}).text("trying hunter2 … --password=hunter2")


def test_data_keeps_its_shape_and_our_field_names() -> None:
    redactor = Redactor({"A_PASSWORD": "frame-1"})
    assert redactor.value(Culprit(kind="frame-1", frame="x")) == {
        "kind": "‹password-1›", "pid": None, "rank": None, "thread": None, "frame": "x", "path": None, "peer": None,
    }  # fmt: skip
    assert redactor.value({"frame-1": (1, 2.5, None, True)}) == {"‹password-1›": [1, 2.5, None, True]}


def test_an_argument_after_a_secret_option_and_a_value_beside_a_secret_name_are_replaced_even_when_short() -> None:
    value = Redactor({}).value({"command": ("x.py", "--token", "ab1", "--pad-token", "ab2"), "HF_TOKEN": "zz"})
    assert value == {"command": ["x.py", "--token", "‹token-1›", "--pad-token", "ab2"], "HF_TOKEN": "‹token-2›"}


passwords = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="‹›"), min_size=6, max_size=24).filter(
    lambda value: len(value.strip()) >= 6 and is_secret("DB_PASSWORD", value.strip())
)
prose = st.text(st.sampled_from([*string.printable, "‹", "›", "é", "\x1b"]), max_size=60)


@given(password=passwords, before=prose, after=prose)
@settings(max_examples=150, deadline=None)
def test_no_password_survives_raw_or_in_any_spelling(password: str, before: str, after: str) -> None:
    password = password.strip()
    redactor = Redactor({"DB_PASSWORD": password})
    spellings = [
        password,
        json.dumps(password)[1:-1],
        json.dumps(password, ensure_ascii=False)[1:-1],
        quote(password, safe=""),
        json.dumps(json.dumps(password, ensure_ascii=False))[3:-3],
    ]
    for spelling in spellings:
        redacted = redactor.text(f"{before} {spelling} {after}")
        assert spelling not in redacted or spelling in f"{before}  {after}‹password-1›"
        assert redactor.text(redacted) == redacted


pieces = st.lists(
    st.one_of(
        st.sampled_from([text for text, _ in SECRETS_BY_SHAPE_OR_PLACE]),
        st.sampled_from(ORDINARY),
        st.sampled_from(["‹token-1›", "‹", "›", "--token", "Bearer", "password=", "\\n", '"', "://a:", "@", "?key=", "\n"]),
    ),
    max_size=6,
)


@given(pieces=pieces, joiner=st.sampled_from(["", " ", "\n", '"', "\\n"]))
@settings(max_examples=200, deadline=None)
def test_redacting_twice_changes_nothing(pieces: list[str], joiner: str) -> None:
    redactor = Redactor({"HF_TOKEN": HF})
    once = redactor.text(joiner.join(pieces))
    assert redactor.text(once) == once
    assert HF not in once


def test_a_thread_that_writes_a_report_and_a_loop_that_emits_agree() -> None:
    redactor = Redactor({"HF_TOKEN": HF})
    texts = [f"step {number} --token Secret{number:04d}x, {HF}" for number in range(240)]

    def redact(order: int) -> list[str]:
        return [redactor.text(text) for text in texts[::order]][::order]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(redact, [1, -1, 1, -1]))
    assert all(result == results[0] for result in results)
    placeholders = {text.split()[3] for text in results[0]}
    assert len(placeholders) == len(texts)
    assert all(placeholder.startswith("‹token-") for placeholder in placeholders)


def test_another_spelling_of_a_known_secret_is_the_same_secret() -> None:
    redactor = Redactor({"DB_PASSWORD": "a b+c/12"})
    assert redactor.value({"X_PASSWORD": "a%20b%2Bc%2F12"}) == {"X_PASSWORD": "‹password-1›"}


def test_secrets_beyond_those_that_are_hunted_are_still_replaced_in_their_places() -> None:
    redactor = Redactor({})
    text = "\n".join(f"GET /x?token=Value{number:04d}" for number in range(HUNTED_LIMIT + 50))
    redacted = redactor.text(text)
    assert "Value" not in redacted
    assert redactor.text(text) == redacted


def test_two_redactors_of_the_same_environment_number_alike() -> None:
    environment = {"B_TOKEN": "bbbb-1111-x", "A_TOKEN": "aaaa-1111-x"}
    assert Redactor(environment).text("aaaa-1111-x bbbb-1111-x") == Redactor(dict(reversed(environment.items()))).text(
        "aaaa-1111-x bbbb-1111-x"
    )


def test_a_secret_that_is_no_utf_8_is_found_in_every_way_to_read_it() -> None:
    raw = b"p\xe4ssw0rd-of-latin-1"
    redactor = Redactor({"DB_PASSWORD": raw.decode("utf-8", "surrogateescape")})
    for errors in ("surrogateescape", "backslashreplace", "replace"):
        assert redactor.text(f"login {raw.decode('utf-8', errors)} ok") == "login ‹password-1› ok"
    assert redactor.text("redis://h/?p=p%E4ssw0rd-of-latin-1") == "redis://h/?p=‹password-1›"
