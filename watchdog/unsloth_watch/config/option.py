"""Every option of the main job, once: its name, kind, default, and why that default.

On the launch path: imports nothing heavy.
"""

from __future__ import annotations

from unsloth_watch.config.duration import format_duration, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class Option:
    """One setting.

    Args:
        name: Kebab-case name: ``--stall-timeout``, ``UNSLOTH_WATCH_STALL_TIMEOUT``, TOML key ``stall-timeout``.
        kind: ``duration``, ``integer``, ``boolean``, ``choice``, ``choices``, ``text`` or ``texts``.
        default: Value when nothing sets it.
        meaning: What it does, with the unit.
        why: Why that default.
        choices: Allowed words of a choice.
        metavar: How the value is called in the help.
        least: Smallest allowed number, or seconds.
        is_command_line_only: True where a file or variable makes no sense.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        default: object,
        meaning: str,
        why: str,
        *,
        choices: tuple[str, ...] = (),
        metavar: str = "",
        least: float | None = None,
        is_command_line_only: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.meaning = meaning
        self.why = why
        self.choices = choices
        self.metavar = metavar or ("|".join(choices) if choices else kind.upper())
        self.least = least
        self.is_command_line_only = is_command_line_only

    @property
    def field(self) -> str:
        """Name of the field in ``Settings``."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Environment variable that sets it."""
        return "UNSLOTH_WATCH_" + self.field.upper()

    @property
    def has_value(self) -> bool:
        """Whether the command line gives it a value (a boolean is a switch)."""
        return self.kind != "boolean"

    def parse(self, value: object) -> object:
        """Return the typed value of a string, or of what TOML read.

        Raises:
            ValueError: With the reason; the caller adds where the value stands.
        """
        return _PARSERS[self.kind](self, value)


def _parse_duration(option: Option, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a duration; write 90, 90s, 3m or 1h30m")
    seconds = parse_duration(str(value))
    if option.least is not None and seconds < option.least:
        raise ValueError(f"{format_duration(seconds)} is too short; the least is {format_duration(option.least)}")
    return seconds


def _parse_integer(option: Option, value: object) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise TypeError
        number = int(str(value))
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a whole number") from None
    if option.least is not None and number < option.least:
        raise ValueError(f"{number} is too small; the least is {option.least:g}")
    return number


def _parse_boolean(option: Option, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def _parse_choice(option: Option, value: object) -> str:
    if value in option.choices:
        return str(value)
    near = nearest(str(value), option.choices)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"{value!r} is none of {', '.join(option.choices)}{hint}")


def _parse_choices(option: Option, value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not words:
        raise ValueError(f"{value!r} is not a list of {', '.join(option.choices)}")
    chosen = tuple(_parse_choice(option, word.strip() if isinstance(word, str) else word) for word in words)
    if "never" in chosen and len(chosen) > 1:
        raise ValueError("'never' cannot be combined with anything else")
    return chosen


def _parse_text(option: Option, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a non-empty text")
    return value


def _parse_texts(option: Option, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(_parse_text(option, word) for word in value)


_PARSERS: dict[str, Callable[[Option, object], object]] = {
    "duration": _parse_duration,
    "integer": _parse_integer,
    "boolean": _parse_boolean,
    "choice": _parse_choice,
    "choices": _parse_choices,
    "text": _parse_text,
    "texts": _parse_texts,
}

OPTIONS: tuple[Option, ...] = (
    Option(
        "run-dir",
        "text",
        None,
        "directory for this run's records; made if it is missing, must hold no file of their names",
        "by default a new directory below $XDG_STATE_HOME/unsloth-watch/runs, so that runs never mix",
        metavar="DIR",
    ),
    Option(
        "runs-dir",
        "text",
        None,
        "directory below which every start makes a directory of its own for its records",
        "by default $XDG_STATE_HOME/unsloth-watch/runs; for services and requeued jobs, which start more than once",
        metavar="DIR",
    ),
    Option("name", "text", None, "name of the run, in its directory and its reports", "the command's own name", metavar="NAME"),
    Option("config", "text", None, "TOML file with settings", "none is needed", metavar="FILE", is_command_line_only=True),
    Option("profile", "text", None, "named set of settings: built in, or [profiles.NAME] of the TOML file", "none", metavar="NAME"),
    Option(
        "stall-timeout",
        "duration",
        180.0,
        "quiet for so long (no work, no data, no computing) counts as hung when it cannot be proven sooner",
        "healthy fine-tunes on an H100 were silent for up to 23 s and let the GPU idle for 56 s; 3 minutes leave room",
        least=2.0,
    ),
    Option(
        "busy-timeout",
        "duration",
        1800.0,
        "CPU burnt for so long without any other sign of progress counts as hung",
        "long silent CPU phases (tokenising, merging, compiling) are common; a job without any known rhythm is given half an hour",
        least=2.0,
    ),
    Option(
        "grace",
        "duration",
        10.0,
        "time between SIGINT and SIGTERM, and at most 5 s of it again before SIGKILL",
        "enough for atexit handlers and a small checkpoint",
        least=0.1,
    ),
    Option(
        "interval",
        "duration",
        1.0,
        "time between two samples",
        "a sample of 20 processes costs about 0.1 % of a core at this rate",
        least=0.1,
    ),
    Option(
        "on-hang",
        "choice",
        "restart",
        "what to do with a hang: relaunch, stop with status 124, or only report",
        "a person who starts this program wants the job to finish",
        choices=("restart", "stop", "report"),
    ),
    Option(
        "restart-on",
        "choices",
        ("hang",),
        "what is worth a relaunch",
        "a crash says by itself what is wrong, and most crashes repeat",
        choices=("hang", "crash", "never"),
        metavar="hang|hang,crash|never",
    ),
    Option(
        "max-restarts",
        "integer",
        3,
        "relaunches at most in this run",
        "what three different remedies did not mend needs a person",
        metavar="N",
        least=0,
    ),
    Option(
        "live-repair",
        "boolean",
        True,
        "repair a hang in the living job where its cause allows that, before anything is ended",
        "nothing is lost: a stopped process goes on, a full pipe gets room, a stalled connection is shut down for a retry",
    ),
    Option(
        "stdin",
        "choice",
        "inherit",
        "the command's standard input",
        "as without the supervisor",
        choices=("inherit", "null"),
    ),
    Option(
        "capture",
        "choice",
        "auto",
        "how output is taken: auto is a pty on a terminal and a pipe otherwise",
        "the command sees what it would see without the supervisor",
        choices=("auto", "pty", "pipe", "inherit"),
    ),
    Option(
        "cache",
        "text",
        "auto",
        "compile caches: auto gives this project and its versions a place of their own below $XDG_CACHE_HOME/unsloth-watch, unless "
        "they are set by you or warm where they are; keep leaves everything; a directory moves them there",
        "two projects or two versions never overwrite each other's files, and no warm cache is lost",
        metavar="auto|keep|DIR",
    ),
    Option(
        "cache-prune",
        "duration",
        None,
        "before the launch, delete entries of compile caches that were not used for so long and that no process uses",
        "nothing is deleted unasked",
    ),
    Option("locals", "boolean", False, "capture the values of local variables too", "they may hold secrets and private data"),
    Option("quiet", "boolean", False, "say only errors and hangs", "one line an event is little"),
    Option("verbose", "boolean", False, "say more, and where every setting came from", "one line an event is enough"),
)

BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str | None:
    """Return the known word that ``word`` most likely meant, if any is near."""
    import difflib  # noqa: PLC0415 - only for an error message, kept off the launch path

    found = difflib.get_close_matches(word.lower().replace("_", "-"), known, n=1, cutoff=0.6)
    return found[0] if found else None
