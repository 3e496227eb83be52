"""``unsloth-watch attach [OPTIONS] PID``: supervise a job that already runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from unsloth_watch.cli.words import parse_number
from unsloth_watch.config.load import load_settings, split_command_line
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import UsageError

_HELP = """\
usage: unsloth-watch attach [OPTIONS] PID

Watches a process that already runs and everybody below it, as if unsloth-watch
had launched it. On a hang its evidence is taken and reported. With --on-hang
stop it is then ended, with --on-hang restart also launched again, by its own
command line, in its own directory and environment, as a job of unsloth-watch.
Its output stays where it goes, so what it prints is no evidence, and timeouts
are doubled for that. Ctrl-C, SIGTERM and unsloth-watch stop let go of it; it
goes on.

All options of unsloth-watch may be given; --on-hang is report unless something
sets it.

example: unsloth-watch attach --stall-timeout 5m 4711
exit status: the job's own where the kernel tells it (Linux 6.15), else 0; 3
cannot attach: no such process, another user's; 130 or 143 let go
"""


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0
    layer, rest = split_command_line(words)
    if len(rest) != 1:
        raise UsageError("attach needs one process id: unsloth-watch attach [OPTIONS] PID; see unsloth-watch attach --help")
    try:
        pid = parse_number(rest[0])
    except argparse.ArgumentTypeError:
        raise UsageError(f"{rest[0]!r} is not a process id; see unsloth-watch attach --help") from None
    settings = _soften(load_settings(layer, os.environ, os.getcwd()))
    from unsloth_watch.supervise.attach import AttachedJob, Attachment  # noqa: PLC0415 - after what may be wrong with the words
    from unsloth_watch.supervise.run import Run  # noqa: PLC0415

    attachment = Attachment(settings, pid)
    attachment.reread = lambda: _soften(load_settings(layer, os.environ, os.getcwd()))
    run = Run(attachment, None, AttachedJob(attachment))
    return run.supervise()


def _soften(settings: Settings) -> Settings:
    """Return settings that end nobody unless somebody asked for it: the job is not of our making."""
    if "on_hang" in settings.sources:
        return settings
    values = {name.replace("-", "_"): entry["value"] for name, entry in settings.describe().items()}
    return Settings({**values, "on_hang": "report"}, {**settings.sources, "on_hang": "attach"})
