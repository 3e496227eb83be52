"""Words to our own stderr where no relay carries them: they go out at once or not at all, because nobody may be reading."""

from __future__ import annotations

import os
import select

_PATIENCE_MS = 200
"""Longest wait for a reader that is merely slow; a pipe that nobody empties would hold the loop for ever."""
_MOST_BYTES = 4096
"""What a pipe that polls as writable takes without blocking (``PIPE_BUF``); a line of ours is shorter, but for a few."""


def say_directly(line: bytes) -> None:
    """Write a line to stderr; where its reader has gone or takes nothing, it is left unsaid.

    Args:
        line: A whole line with its end.
    """
    if len(line) > _MOST_BYTES:
        line = line[: _MOST_BYTES - 5] + " …\n".encode()
    poller = select.poll()
    try:
        poller.register(2, select.POLLOUT)
        if poller.poll(_PATIENCE_MS):
            os.write(2, line)
    except OSError:  # nobody is left to tell
        pass
