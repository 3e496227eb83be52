"""Gathers the settings: option, then environment, ``--config``, the project's TOML, profile, default.

Nothing is ever ignored silently: an unknown key or variable is an error that names its place and the nearest valid one.
On the launch path: TOML is imported only where a file is there to read.
"""

from __future__ import annotations

import os
import sys

from unsloth_watch.config.duration import format_duration
from unsloth_watch.config.option import BY_NAME, OPTIONS, Option, nearest
from unsloth_watch.config.profile import PROFILES
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Variables that the supervisor gives to the command; seen in our own environment when supervisors are nested.
MARKERS = ("UNSLOTH_WATCH_RUN", "UNSLOTH_WATCH_RUN_DIR", "UNSLOTH_WATCH_ATTEMPT")
_SHORT = {"-v": "--verbose", "-q": "--quiet"}

Layer = dict[str, tuple[object, str]]
"""Values of one source by field name, each with a phrase that says where it stands."""


def split_command_line(arguments: Sequence[str]) -> tuple[Layer, list[str]]:
    """Separate our options from the command.

    Args:
        arguments: Words after the program's name.

    Returns:
        The options given, and the command: everything after ``--`` or from the first word that is no option.

    Raises:
        UsageError: An unknown option, a missing or impossible value.
    """
    layer: Layer = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            return layer, list(arguments[position + 1 :])
        if not word.startswith("-") or word == "-":
            return layer, list(arguments[position:])
        position += 1
        flag, has_equals, attached = _SHORT.get(word, word).partition("=")
        option, is_negated = _option_of(flag)
        if option.has_value:
            if not has_equals:
                if position == len(arguments) or arguments[position] == "--":
                    raise UsageError(f"{flag} needs a value: {flag} {option.metavar}")
                attached = arguments[position]
                position += 1
            _store(layer, option, attached, flag, UsageError)
        elif has_equals:
            raise UsageError(f"{flag} takes no value; write {flag} or --no-{option.name}")
        else:
            _store(layer, option, not is_negated, flag, UsageError)
    return layer, []


def _option_of(flag: str) -> tuple[Option, bool]:
    name = flag[2:] if flag.startswith("--") else ""
    if name in BY_NAME:
        return BY_NAME[name], False
    if name.startswith("no-") and name[3:] in BY_NAME and BY_NAME[name[3:]].kind == "boolean":
        return BY_NAME[name[3:]], True
    near = nearest(name, list(BY_NAME)) if name else None
    hint = f"; did you mean --{near}?" if near else "; see unsloth-watch --help"
    raise UsageError(f"unknown option {flag}{hint}")


def _store(layer: Layer, option: Option, value: object, place: str, error: type[UsageError | ConfigError]) -> None:
    try:
        parsed = option.parse(value)
    except ValueError as reason:
        raise error(f"{place}: {reason}") from None
    if option.kind == "texts" and option.field in layer:
        parsed = (*_as_texts(layer[option.field][0]), *_as_texts(parsed))
    layer[option.field] = (parsed, place)


def _as_texts(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def load_settings(options: Layer, environment: Mapping[str, str], directory: str) -> Settings:
    """Merge all sources.

    Args:
        options: What ``split_command_line`` found.
        environment: Our own environment.
        directory: Where the search for ``unsloth-watch.toml`` or ``pyproject.toml`` starts.

    Raises:
        ConfigError: A file that cannot be read or is no TOML, an unknown key, a value of the wrong kind, an impossible
            combination. Names file and key, or the variable.
    """
    variables = _read_environment(environment)
    named = options.get("config")
    files: list[tuple[Layer, Mapping[str, object]]] = []
    if named is not None:
        files.append(_read_file(str(named[0]), table=()))
    found = find_project_file(directory)
    if found is not None:
        files.append(_read_file(*found))
    layers = [options, variables, *(layer for layer, _ in files)]
    profile = next((layer["profile"] for layer in layers if "profile" in layer), None)
    if profile is not None:
        layers.append(_read_profile(str(profile[0]), profile[1], [profiles for _, profiles in files]))
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for layer in reversed(layers):
        for field, (value, place) in layer.items():
            values[field], sources[field] = value, place
    settings = Settings(values, sources)
    _check_combinations(settings)
    return settings


def _read_environment(environment: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    is_nested = "UNSLOTH_WATCH_RUN" in environment
    known = {option.variable: option for option in OPTIONS if not option.is_command_line_only}
    for variable, value in environment.items():
        if not variable.startswith("UNSLOTH_WATCH_") or (variable in MARKERS and (is_nested or variable not in known)):
            continue
        option = known.get(variable)
        if option is None:
            near = nearest(variable[14:], [option.name for option in known.values()])
            hint = f"did you mean {BY_NAME[near].variable}? " if near else ""
            raise ConfigError(f"environment variable {variable} is not a setting; {hint}unset it, or see unsloth-watch --help")
        _store(layer, option, value, variable, ConfigError)
    return layer


def find_project_file(directory: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the nearest ``unsloth-watch.toml``, or the nearest ``pyproject.toml`` that has our table, going upwards."""
    place = os.path.abspath(directory)
    while True:
        own = os.path.join(place, "unsloth-watch.toml")
        if os.path.isfile(own):
            return own, ()
        project = os.path.join(place, "pyproject.toml")
        if os.path.isfile(project):
            # The nearest pyproject.toml ends the search: a project does not inherit its parent folder's settings.
            try:
                with open(project, "rb") as stream:
                    has_table = b"tool.unsloth-watch" in stream.read()
            except OSError as reason:
                raise ConfigError(f"{project}: cannot be read ({reason.strerror}), and may hold settings") from None
            return (project, ("tool", "unsloth-watch")) if has_table else None
        parent = os.path.dirname(place)
        if parent == place:
            return None
        place = parent


def _read_file(path: str, table: tuple[str, ...]) -> tuple[Layer, Mapping[str, object]]:
    content: object = _parse_toml(path)
    for name in table:
        content = content.get(name, {}) if isinstance(content, dict) else {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: [{'.'.join(table)}] is not a table")
    profiles = content.pop("profiles", {})
    if not isinstance(profiles, dict):
        raise ConfigError(f"{path}: profiles is not a table; write [profiles.NAME]")
    return _read_table(content, path), profiles


def _parse_toml(path: str) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - 7 ms, only where there is a file
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        with open(path, "rb") as stream:
            content: dict[str, object] = tomllib.load(stream)
    except OSError as reason:
        raise ConfigError(f"{path}: cannot be read ({reason.strerror}); check the path given to --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise ConfigError(f"{path}: is not TOML: {reason}") from None
    return content


def _read_table(table: Mapping[str, object], place: str) -> Layer:
    layer: Layer = {}
    known = [option.name for option in OPTIONS if not option.is_command_line_only]
    for key, value in table.items():
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {near}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{place}: unknown key {key!r}{hint}")
        _store(layer, BY_NAME[key], value, f"{place}: {key}", ConfigError)
    return layer


def _read_profile(name: str, place: str, of_files: Sequence[Mapping[str, object]]) -> Layer:
    for profiles in (*of_files, PROFILES):
        if name in profiles:
            table = profiles[name]
            if not isinstance(table, dict):
                raise ConfigError(f"profile {name}: is not a table; write [profiles.{name}]")
            return _read_table(table, f"profile {name}")
    known = sorted({*PROFILES, *(key for profiles in of_files for key in profiles)})
    near = nearest(name, known)
    hint = f"did you mean {near}? " if near else ""
    raise ConfigError(f"{place}: there is no profile {name!r}; {hint}there are {', '.join(known)}")


def _check_combinations(settings: Settings) -> None:
    if settings.busy_timeout < settings.stall_timeout:
        raise ConfigError(
            f"busy-timeout ({format_duration(settings.busy_timeout)}) is shorter than stall-timeout "
            f"({format_duration(settings.stall_timeout)}): "
            "a job that computes would be given less time than a silent one; raise busy-timeout"
        )
    if settings.interval > settings.stall_timeout / 4:
        raise ConfigError(
            f"interval ({format_duration(settings.interval)}) is too long for stall-timeout "
            f"({format_duration(settings.stall_timeout)}): "
            "at least four samples must fit; shorten interval"
        )
    if settings.run_dir is not None and settings.runs_dir is not None:
        raise ConfigError("run-dir and runs-dir exclude each other: one names this run's directory, the other that of all runs")
    if settings.quiet and settings.verbose:
        raise ConfigError("quiet and verbose exclude each other; drop one")
