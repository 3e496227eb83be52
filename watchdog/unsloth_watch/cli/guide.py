"""The help of the main job, made from the table of options."""

from __future__ import annotations

import textwrap

from unsloth_watch.config.duration import format_duration
from unsloth_watch.config.option import OPTIONS, Option

_USAGE = """\
usage: unsloth-watch [OPTIONS] [--] COMMAND [ARG]...
       unsloth-watch VERB ...

Launches COMMAND and watches it. A hang is told from work by what gets further,
not by what is busy; its stacks are captured before anything is killed, the
cause is named, what can be mended is mended, and COMMAND is launched again.
COMMAND's output, input, signals and exit status are as without unsloth-watch.

example: unsloth-watch --stall-timeout 3m -- python train.py --epochs 3

verbs (each has --help; a command that is called like one goes after --):
  inspect PID     is this process hung, and why? changes nothing
  attach PID      supervise a job that already runs
  doctor          what would go wrong with a launch, and the mend
  cache           list, prune and repair caches
  runs            the runs, newest first
  show RUN        what a run is doing now, or how it ended
  report RUN      the report of an incident
  bundle RUN      an incident in one file for somebody else
  capture RUN     all evidence of a running job now; nobody is paused or ended
  stop RUN        end a run as SIGTERM would
  restart RUN     end the attempt, start the next
  pause RUN       judge nothing, for somebody who debugs the job
  resume RUN      judge again
  reload RUN      read the settings again, without touching the job
  replay RUN      judge a recorded run again, with other timeouts if asked
  service         print or install a systemd unit

options (each also as UNSLOTH_WATCH_NAME in the environment and as a key of
unsloth-watch.toml or [tool.unsloth-watch] in pyproject.toml; --config is for
the command line alone; durations are 90, 90s, 3m or 1h30m):
"""
_END = """
exit status: COMMAND's own, 128+n when signal n ended it; 64 usage, 75 start
limit after crashes, 78 configuration, 123 an unkillable process was left
behind, 124 gave up on a hang, 125 the supervisor failed, 126 not executable,
127 not found.
"""
_WIDTH = 80


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
    return f"  {flag}{short}\n" + textwrap.fill(text, _WIDTH - 2, initial_indent=" " * 6, subsequent_indent=" " * 6) + "\n"


def _default(option: Option) -> str:
    if option.kind == "duration" and isinstance(option.default, float):
        return format_duration(option.default)
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    if option.kind == "boolean":
        return "on" if option.default else "off"
    return "" if option.default is None else str(option.default)
