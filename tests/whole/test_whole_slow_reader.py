"""A reader of our output that reads nothing more, as a pager does: it is not waited for for ever, and what it lacks is said."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from watched import Watched


def test_output_that_nobody_took_is_said_and_lies_in_the_log(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    script = watched.script("for number in range(300_000): print(number)")
    with watched.start(sys.executable, script) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        said = process.stderr.read().decode()
        assert process.wait() == 0
        taken = process.stdout.read()
    log = (watched.directory / "output.log").read_bytes()
    assert log.splitlines()[-1] == b"299999"
    assert len(taken) < len(log)
    left = re.search(r"stdout: (\d+) bytes were not taken in time; (\S+) has", said)
    assert left is not None
    # What the last write put into the pipe before it was given up counts as not taken.
    assert int(left[1]) >= len(log) - len(taken)
    assert left[2] == str(watched.directory / "output.log")
