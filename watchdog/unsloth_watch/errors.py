"""Errors that a user sees: what happened, to what, and what to do next; one base class, an exit code each.

Imported before the command is launched, so it imports nothing.
"""

from __future__ import annotations

# Exit statuses of the supervisor itself; the command's own status is passed on verbatim.
EXIT_USAGE = 64
"""Wrong command line (sysexits.h EX_USAGE)."""
EXIT_START_LIMIT = 75
"""Stopped by a start limit after crashes (EX_TEMPFAIL)."""
EXIT_CONFIG = 78
"""Wrong configuration (EX_CONFIG)."""
EXIT_UNKILLABLE = 123
"""A process that SIGKILL could not end was left behind."""
EXIT_GAVE_UP = 124
"""Gave up on a hang, as ``timeout(1)`` does."""
EXIT_SUPERVISOR = 125
"""The supervisor itself failed."""
EXIT_NOT_EXECUTABLE = 126
"""The command exists and cannot be executed (POSIX shell convention)."""
EXIT_NOT_FOUND = 127
"""The command was not found (POSIX shell convention)."""


class WatchError(Exception):
    """A failure that is explained to the user in one line.

    The message names the thing, the reason and the next step.
    """

    exit_code = EXIT_SUPERVISOR


class UsageError(WatchError):
    """The command line cannot be understood."""

    exit_code = EXIT_USAGE


class ConfigError(WatchError):
    """A setting is unknown, of the wrong type or impossible; the message names its source and key."""

    exit_code = EXIT_CONFIG


class RunDirectoryError(ConfigError):
    """The run directory cannot be made or written."""


class LaunchError(WatchError):
    """The command could not be started.

    Args:
        message: What the user reads.
        errno: The errno of the failed ``execve``; decides between 126 and 127.
    """

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno
        # ENOENT is 2: kept as a number so that this module imports nothing.
        self.exit_code = EXIT_NOT_FOUND if errno == 2 else EXIT_NOT_EXECUTABLE


class RefusedError(WatchError):
    """A running supervisor would not do what it was asked for."""

    exit_code = 1


class CannotLookError(WatchError):
    """What was named cannot be looked at: no such process, run or incident, it may not be read, or nobody answers for it."""

    exit_code = 3
