"""Redaction: the same secret becomes the same placeholder (``‹token-1›``) in everything that one run writes.

Three sources of secrets: variables whose names say so, shapes that say so (``hf_…``, a PEM block, ``user:password@``), and
places that say so (``--token X``, ``?key=``, ``Authorization:``). What a place betrayed is from then on replaced everywhere.
"""

from __future__ import annotations

import enum
import os
import re
from _thread import RLock  # what ``threading.RLock`` is, without the import of threading on the launch path
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from unsloth_watch.tell.secretname import SHORTEST, is_secret, is_secret_name, name_kind

# A token may follow an escape ("\nhf_…" inside JSON, "%20hf_…" in a URL, a colour code), so \b is not enough of a border.
_BORDER = (
    r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\x[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2})"
    r"|(?<=\[[0-9;]m)|(?<=[0-9;]m))"
)
_WORD = r"[^\s\"'\\‹›<>&;,|)}\]]"
_NAME = r"[A-Za-z0-9_-]{0,64}"
_SAYS_SECRET = r"(?:pass|secret|token|credential|cookie|key|auth|dsn|pat)"  # noqa: S105  a pattern

# The part of a group's name before the first underscore is the kind of its secret.
_SHAPES = (
    ("private_key", r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----(?:.*?-----END [A-Z ]{0,32}PRIVATE KEY-----|[A-Za-z0-9+/=\\\s]*)"),
    ("token_jwt", r"eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,8000}(?:\.[A-Za-z0-9_-]*)?"),
    ("token_hf", r"(?:hf|api_org)_(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9]{16,}"),
    (
        "token_github",
        r"github_pat_[A-Za-z0-9_]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}",
    ),
    ("key_sk", _BORDER + r"sk-(?=[A-Za-z_-]*[0-9A-Z])[A-Za-z0-9_-]{16,}"),
    ("key_aws", _BORDER + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[A-Za-z0-9_-]{35}"),
    # 40 hex digits are a wandb key only beside the word; a commit beside it stays.
    ("key_wandb", r"(?<=[:=\s\"'])[0-9a-f]{40}(?![0-9a-f])"),
)
# "_v" groups hold the value, "_n" groups the name whose word decides.
_PLACES = (
    (
        "login",
        r"(?:Authorization[\"']?\s*[:=]\s*[\"']?(?:[a-z]+\s+)?|(?-i:\b(?:Bearer|Basic)\s+))(?P<login_v>[A-Za-z0-9._~+/=-]{8,})",
    ),
    ("cookies", r"\b(?:Set-)?Cookie:\s*(?P<cookies_v>[^\r\n\"'\\‹›]+)"),
    ("url", r"[a-z][a-z0-9+.-]{1,20}://[^\s/@:\"'\\‹›?#]*:(?P<url_v>[^\s/\"'\\‹›?#]+)@"),
    ("user", r"https?://(?P<user_v>[A-Za-z0-9_-]{16,})@"),
    (
        "query",
        r"(?:[?&]|\\u0026)(?P<query_n>(?:[\w.-]*(?:token|secret|passwo?r?d|signature|credential|api_?key|access_?key))|key|sig|auth|code|policy|key-pair-id)"
        r"=(?P<query_v>[^&\s\"'<>#\\‹›]+)",
    ),
    (
        "option",
        rf"(?<![\w-])--?(?P<option_n>{_NAME}{_SAYS_SECRET}{_NAME})(?:=|\s+|[\"'],\s*[\"'])(?:\\?[\"'])?(?P<option_v>(?!-){_WORD}+)",
    ),
    ("assign", rf"(?<![\w-])(?P<assign_n>{_NAME}{_SAYS_SECRET}{_NAME})(?:=|\\?[\"']\s*[:=]\s*)(?:\\?[\"'])?(?P<assign_v>{_WORD}+)"),
)
_HINTS = (
    "token", "key", "secret", "pass", "auth", "bearer", "basic", "cookie", "credential", "dsn", "pat", "sig", "code=", "policy=",
    "hf_", "api_org_", "sk-", "gh", "glpat-", "xox", "akia", "asia", "aiza", "eyj", "wandb", "private",
)  # fmt: skip
"""What a lower-cased text must contain before the pattern is tried: the searches cost 8 µs on an ordinary line, the pattern 93.

``user:password@`` alone has no word; it is looked for by its address. The patterns take 14 ms to compile, most runs have no
text for them in their first second, and ``re`` keeps what it has compiled."""
_WANDB_NEAR = r"wandb[^\n]{0,24}$"
_COMMIT_NEAR = r"commit|sha|rev|git|hash|version"
_PLACEHOLDER = r"‹[a-z-]+-[0-9]+›"
_PLACE = "|".join([f"(?P<placeholder>{_PLACEHOLDER})", *(f"(?P<{name}>{place})" for name, place in _PLACES)])


HUNTED_LIMIT = 256
"""Secrets that are looked for everywhere; later ones are replaced where their place betrays them. A download log has thousands of
signed addresses, and a pattern of thousands of words would take minutes on it."""
KNOWN_LIMIT = 4096
"""Secrets that are remembered: 4 MB of signed addresses. Later ones get a number that is made of the secret itself, with a key that
nobody else has: the same secret is still the same placeholder, and takes no memory."""


class Redactor:
    """Replaces secrets consistently within a run; idempotent; fast on text that has none.

    Args:
        environment: The job's variables; values whose names say secret are looked for in every text.
        taken: Placeholders that stand for other secrets already; numbers go on after theirs.
    """

    def __init__(self, environment: Mapping[str, str], taken: Iterable[str] = ()) -> None:
        self._placeholders: dict[str, str] = {}
        self._spellings: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._key = os.urandom(16)
        for placeholder in taken:
            kind, _, number = placeholder.strip("‹›").rpartition("-")
            self._counts[kind] = max(self._counts.get(kind, 0), int(number))
        # The loop emits events while a thread writes a report: learning is locked, readers take the newest tuple and pattern.
        self._lock = RLock()
        self._hunted: tuple[str, ...] = ()
        self._compiled: tuple[tuple[str, ...], re.Pattern[str] | None] = ((), None)
        for name in sorted(environment):
            value = environment[name].strip()
            if len(value) >= SHORTEST and is_secret(name, value):
                self._learn(value, name_kind(name))

    @property
    def known(self) -> int:
        """Number of secrets known by now: while it stands, a text that had none has none."""
        return len(self._placeholders)

    @property
    def hunted(self) -> dict[str, str]:
        """The secrets that are looked for in every text, in all their spellings, with their placeholders."""
        with self._lock:
            return dict(self._spellings)

    def text(self, text: str) -> str:
        """Return ``text`` with every secret replaced."""
        if not self._may_hold_secret(text):
            return text
        for _ in range(8):  # what one pass learns, the next one finds elsewhere; two passes are the rule
            known = self._hunted
            changed = self._replace_places(self._compile(known).sub(self._replace_shape, text))
            if self._hunted is known and changed == text:
                break
            text = changed
        return text

    def value(self, value: object) -> Any:  # noqa: ANN401, PLR0911  the shape is the caller's; one line a type
        """Return ``value`` as plain data (dict, list, str, numbers) with every secret replaced.

        Field names of structs are ours and stay; keys of dictionaries are foreign and are redacted too. A value beside a name
        that says secret is replaced whole, and so is an argument after an option that says secret.
        """
        if isinstance(value, enum.Enum):
            return self.value(value.value)
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, msgspec.Struct):
            return {name: self.value(getattr(value, name)) for name in value.__struct_fields__}
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._named(str(key), item) for key, item in value.items()}
        if isinstance(value, (bytes, bytearray)):
            return self.text(bytes(value).decode("utf-8", "backslashreplace"))
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._arguments(list(value))
        return self.text(str(value))

    def _named(self, name: str, value: object) -> object:
        if isinstance(value, str) and is_secret(name, value):
            return self._place(value, name_kind(name))
        return self.value(value)

    def _arguments(self, items: list[object]) -> list[object]:
        result: list[object] = []
        option = ""
        for item in items:
            if option and isinstance(item, str) and not item.startswith("-") and is_secret(option, item):
                result.append(self._place(item, name_kind(option)))
            else:
                result.append(self.value(item))
            is_option = isinstance(item, str) and item.startswith("-") and "=" not in item and is_secret_name(item)
            option = str(item) if is_option else ""
        return result

    def _may_hold_secret(self, text: str) -> bool:
        lowered = text.lower()
        return (
            any(hint in lowered for hint in _HINTS)
            or ("@" in lowered and "://" in lowered)
            or any(spelling in text for spelling in self._hunted)
            or "-----BEGIN" in text
        )

    def _place(self, secret: str, kind: str) -> str:
        """Return the placeholder of ``secret``; make and remember one where it is new."""
        return self._placeholders.get(secret) or self._learn(secret, kind)

    def _learn(self, secret: str, kind: str) -> str:
        with self._lock:
            return self._learn_alone(secret, kind)

    def _learn_alone(self, secret: str, kind: str) -> str:
        if secret in self._placeholders:
            return self._placeholders[secret]
        if secret in self._spellings:  # another way to write a known one
            return self._placeholders.setdefault(secret, self._spellings[secret])
        if len(self._placeholders) >= KNOWN_LIMIT:
            return f"‹{kind}-{self._number(secret)}›"
        self._counts[kind] = self._counts.get(kind, 0) + 1
        placeholder = f"‹{kind}-{self._counts[kind]}›"
        self._placeholders[secret] = placeholder
        if len(secret) >= SHORTEST and len(self._placeholders) <= HUNTED_LIMIT:
            for spelling in _spell(secret):
                self._spellings.setdefault(spelling, placeholder)
            self._hunted = tuple(self._spellings)
        return placeholder

    def _number(self, secret: str) -> int:
        """Return a number of twelve digits: it cannot be one that was counted."""
        from hashlib import blake2b  # noqa: PLC0415 - only for a log with thousands of secrets

        digest = blake2b(secret.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).digest()
        return 10**11 + int.from_bytes(digest, "big") % (9 * 10**11)

    def _compile(self, hunted: tuple[str, ...]) -> re.Pattern[str]:
        """Return the pattern of shapes and known secrets, compiled once for each state of knowledge."""
        known, pattern = self._compiled
        if known is not hunted or pattern is None:
            pattern = re.compile(_build_pattern(hunted), re.DOTALL)
            self._compiled = hunted, pattern
        return pattern

    def _replace_shape(self, match: re.Match[str]) -> str:
        """Decide about a placeholder (stays), a known secret (is replaced) or a shape (is judged by what stands before it)."""
        whole, group = match.group(), match.lastgroup or ""
        if group == "placeholder":
            return whole
        if group == "known":
            return self._spellings[whole]
        if group == "key_wandb" and not _is_wandb_key(match.string, match.start()):
            return whole
        return self._placeholders.get(whole) or self._learn(whole, _GROUP_KINDS[group])

    def _replace_places(self, text: str) -> str:
        """Replace what places betray. A place that is judged harmless is searched again from its value on: it may hold another."""
        parts: list[str] = []
        position = copied = 0
        pattern = re.compile(_PLACE, re.IGNORECASE)
        while match := pattern.search(text, position):
            group = match.lastgroup or ""
            start, end = match.span(f"{group}_v") if group != "placeholder" else match.span()
            secret = text[start:end]
            kind = None if group == "placeholder" else _judge_place(group, match, secret)
            if kind is None:
                position = max(start, match.start() + 1) if group != "placeholder" else end
                continue
            parts += [text[copied:start], self._placeholders.get(secret) or self._learn(secret, kind)]
            position = copied = end
        return "".join([*parts, text[copied:]])


_GROUP_KINDS = {name: "private-key" if name == "private_key" else name.partition("_")[0] for name, _ in _SHAPES}


def _build_pattern(spellings: Sequence[str]) -> str:
    parts = [f"(?P<placeholder>{_PLACEHOLDER})"]
    if spellings:
        known = "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))
        parts.append(f"(?P<known>{known})")
    parts += [f"(?P<{name}>{shape})" for name, shape in _SHAPES]
    return "|".join(parts)


def _spell(secret: str) -> set[str]:
    """Return how ``secret`` may be written: raw, inside JSON (ASCII or not, twice), in a URL, as Python prints it.

    One that is no UTF-8 came with lone surrogates from the environment, and as what they stand for from an output.
    """
    import json  # noqa: PLC0415 - 3 ms with the next, and only where there is a secret
    from urllib.parse import quote  # noqa: PLC0415

    try:
        raw = secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte: from a text that was decoded so
        raw = secret.encode("utf-8", "backslashreplace")
    decoded = {raw.decode("utf-8", errors) for errors in ("backslashreplace", "replace")}

    ascii_json = json.dumps(secret)[1:-1]
    plain_json = json.dumps(secret, ensure_ascii=False)[1:-1]
    json_twice = json.dumps(plain_json)[1:-1]
    return {secret, *decoded, ascii_json, plain_json, json_twice, quote(raw, safe=""), quote(raw), repr(secret)[1:-1]}


def _is_wandb_key(text: str, start: int) -> bool:
    near = re.compile(_WANDB_NEAR, re.IGNORECASE).search(text, max(0, start - 32), start)
    return near is not None and not re.search(_COMMIT_NEAR, near.group(), re.IGNORECASE)


def _judge_place(group: str, match: re.Match[str], secret: str) -> str | None:  # noqa: PLR0911  one line a place
    """Return the kind of the secret that a place holds; None where it holds none."""
    has_digit = any(sign.isdigit() for sign in secret)
    if group == "login":
        return "token" if has_digit or secret.endswith("=") else None
    if group == "cookies":
        return "cookie" if "=" in secret else None
    if group == "url":
        return "password"
    if group == "user":
        return "token" if has_digit else None
    name = match.group(f"{group}_n")
    if group == "query":
        return name_kind(name)
    if not is_secret(name, secret):
        return None
    kind = name_kind(name)
    if group == "option" or kind == "password" or name.isupper():
        return kind
    # `"token": "Ġhello"` in a tokenizer's dump is no secret: outside options and variables it must look like one.
    return kind if len(secret) >= 12 and has_digit and any(sign.isalpha() for sign in secret) else None
