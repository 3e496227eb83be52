"""Settings: every source, its order, and the words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.config.duration import format_duration, parse_duration
from unsloth_watch.config.load import load_settings, split_command_line
from unsloth_watch.config.option import OPTIONS
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import ConfigError, UsageError

pytestmark = pytest.mark.quick


def load(arguments: str = "", environment: dict[str, str] | None = None, directory: Path = Path("/")) -> Settings:
    """Settings of a command line, an environment and a directory."""
    options, _ = split_command_line(arguments.split())
    return load_settings(options, environment or {}, str(directory))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("3m", 180),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("1d", 86400),
        (" 2M ", 120),
        ("0.5h", 1800),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-3", "0", "3x", "3 m 2", "m3", "1s2m", "1m1m", "nan", "inf", "1e3", "1_0", ".", "3mm", "400d", "½"]
)
def test_an_impossible_duration_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="duration|year|order"):
        parse_duration(text)


@given(st.integers(1, 366 * 86400 * 1000).map(lambda ms: ms / 1000))
def test_a_written_duration_reads_back_to_the_second_or_better(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=0.0006 if seconds < 60 else 0.51)


def test_the_first_word_that_is_no_option_begins_the_command() -> None:
    options, command = split_command_line(["--grace", "3s", "python", "--name", "x", "--", "y"])
    assert options["grace"] == (3.0, "--grace")
    assert command == ["python", "--name", "x", "--", "y"]


def test_after_the_two_dashes_everything_is_the_command() -> None:
    assert split_command_line(["-v", "--", "--name", "--"])[1] == ["--name", "--"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stal-timeout", "3s", "x"], "did you mean --stall-timeout"),
        (["--stall-timeout"], "needs a value"),
        (["--stall-timeout", "--", "x"], "needs a value"),
        (["--stall-timeout=soon", "x"], "--stall-timeout: 'soon' is not a duration"),
        (["--stall-timeout=1s", "x"], "too short; the least is 2s"),
        (["--max-restarts", "many", "x"], "not a whole number"),
        (["--max-restarts=-1", "x"], "too small"),
        (["--on-hang", "restar", "x"], "did you mean 'restart'"),
        (["--restart-on", "hang,never", "x"], "cannot be combined"),
        (["--quiet=yes", "x"], "takes no value"),
        (["--no-grace", "x"], "unknown option --no-grace"),
        (["-x", "y"], "unknown option -x"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_says_the_next_step(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError) as error:
        split_command_line(arguments)
    assert words in str(error.value)
    assert error.value.exit_code == 64


def test_every_source_overrides_the_next(tmp_path: Path) -> None:
    (tmp_path / "unsloth-watch.toml").write_text(
        'profile = "mine"\nstall-timeout = "50s"\ngrace = "4s"\n[profiles.mine]\nstall-timeout = "60s"\nmax-restarts = 7\ngrace = 5\n'
    )
    named = tmp_path / "other.toml"
    named.write_text('stall-timeout = "40s"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    variables = {"UNSLOTH_WATCH_STALL_TIMEOUT": "30s"}

    assert load("--stall-timeout 20s", variables, below).stall_timeout == 20
    assert load(f"--config {named}", variables, below).stall_timeout == 30
    assert load(f"--config {named}", {}, below).stall_timeout == 40
    assert load("", {}, below).stall_timeout == 50
    settings = load("", {}, below)
    assert (settings.grace, settings.max_restarts, settings.interval) == (4, 7, 1)
    assert settings.sources["max_restarts"] == "profile mine: max-restarts"
    assert settings.sources["grace"] == f"{tmp_path / 'unsloth-watch.toml'}: grace"
    assert settings.describe()["interval"] == {"value": 1.0, "source": "default"}


def test_a_table_of_pyproject_counts_and_a_pyproject_without_it_ends_the_search(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.unsloth-watch]\nmax-restarts = 9\n")
    assert load("", {}, tmp_path).max_restarts == 9
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert load("", {}, inner).max_restarts == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stall_timeout = 3", "unknown key 'stall_timeout'; did you mean stall-timeout?"),
        ("config = 'x'", "unknown key 'config'"),
        ("interval = 'x'", "interval: 'x' is not a duration"),
        ("max-restarts = true", "max-restarts: True is not a whole number"),
        ("max-restarts = 1.5", "max-restarts: 1.5 is not a whole number"),
        ("quiet = 3", "quiet: 3 is neither true nor false"),
        ("locals = 'perhaps'", "neither true nor false"),
        ("restart-on = 3", "is not a list of hang, crash, never"),
        ("name = ''", "not a non-empty text"),
        ("profiles = 3", "profiles is not a table"),
        ("profile = 'overnigth'", "there is no profile 'overnigth'; did you mean overnight?"),
        ("stall-timeout = '3m'\nbusy-timeout = '1m'", "busy-timeout (1m) is shorter than stall-timeout (3m)"),
        ("interval = '60s'", "at least four samples must fit"),
        ("quiet = true\nverbose = true", "exclude each other"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "unsloth-watch.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load("", {}, tmp_path)
    assert words in str(error.value)
    assert error.value.exit_code == 78


def test_a_config_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read \(No such file"):
        load(f"--config {tmp_path}/missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(f"--config {tmp_path}/binary.toml")


def test_an_unknown_variable_is_an_error_and_the_markers_of_an_outer_supervisor_are_none() -> None:
    with pytest.raises(ConfigError, match="did you mean UNSLOTH_WATCH_GRACE"):
        load("", {"UNSLOTH_WATCH_GRACES": "3"})
    nested = {"UNSLOTH_WATCH_RUN": "r", "UNSLOTH_WATCH_RUN_DIR": "/outer", "UNSLOTH_WATCH_ATTEMPT": "1"}
    assert load("", nested).run_dir is None
    assert load("", {"UNSLOTH_WATCH_RUN_DIR": "/mine"}).run_dir == "/mine"


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="frozen"):
        load().grace = 3


def test_every_option_has_a_field_a_default_that_it_would_accept_and_a_reason() -> None:
    for option in OPTIONS:
        assert option.field in Settings.__annotations__
        assert option.meaning
        assert option.why
        if option.default not in (None, ()):
            default = ",".join(option.default) if isinstance(option.default, tuple) else option.default
            assert option.parse(default) == option.default
