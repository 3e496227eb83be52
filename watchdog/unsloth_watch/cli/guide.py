"""The help of the main job, made from the table of options."""

from __future__ import annotations

import textwrap

from unsloth_watch.config.duration import format_duration
from unsloth_watch.config.option import OPTIONS, Option

_USAGE = """\
usage: unsloth-watch [OPTIONS] [--] COMMAND [ARG]...
       unsloth-watch inspect PID [--json]
       unsloth-watch replay RUN [--stall-timeout 60s] [--json]
       unsloth-watch doctor [--fix] [-- COMMAND]
       unsloth-watch cache list|prune|repair
       unsloth-watch attach PID · service print|install [--user] -- COMMAND
       unsloth-watch runs · show · report · bundle · stop · restart · capture · pause · resume · reload  RUN

Launches COMMAND and watches it. A hang is told from work by what gets further, not by what is busy; its stacks are
captured before anything is killed, the cause is named, what can be mended is mended, and COMMAND is launched again.
COMMAND's output, input, signals and exit status are as without unsloth-watch.

example: unsloth-watch --stall-timeout 3m -- python train.py --epochs 3

options (each also as UNSLOTH_WATCH_NAME in the environment and as a key of unsloth-watch.toml or
[tool.unsloth-watch] in pyproject.toml; durations are 90, 90s, 3m or 1h30m):
"""
_END = """
exit status: COMMAND's own, 128+n when signal n ended it; 64 usage, 78 configuration, 123 an unkillable process was
left behind, 124 gave up on a hang, 125 the supervisor failed, 126 not executable, 127 not found, 75 start limit.
"""


def describe_main() -> str:
    """Return the text of ``unsloth-watch --help``."""
    return _USAGE + "".join(_describe(option) for option in OPTIONS) + _END


def _describe(option: Option) -> str:
    flag = f"--{option.name}" if option.has_value else f"--[no-]{option.name}"
    if option.has_value:
        flag += f" {option.metavar}"
    short = {"verbose": ", -v", "quiet": ", -q"}.get(option.name, "")
    default = _default(option)
    text = option.meaning + (f" (default {default})" if default else "")
    return f"  {flag}{short}\n" + textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6) + "\n"


def _default(option: Option) -> str:
    if option.kind == "duration" and isinstance(option.default, float):
        return format_duration(option.default)
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    if option.kind == "boolean":
        return "on" if option.default else "off"
    return "" if option.default is None else str(option.default)
