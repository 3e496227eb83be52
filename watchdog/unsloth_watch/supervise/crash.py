"""Crashes: which would come back for sure and which may pass, told by the command's last words. Pure; the rules are data."""

from __future__ import annotations

import enum
import re
import signal

import msgspec

_LAST_LINES = 40
"""Lines at the end of the output that are asked: a traceback's last line, and what a launcher prints after it."""


class Kind(str, enum.Enum):
    """Whether the same command may fare better."""

    DETERMINISTIC = "deterministic"
    """It would fail again."""
    TRANSIENT = "transient"
    """It may pass."""
    UNKNOWN = "unknown"
    """Nothing is known: worth one more attempt, not two with the same words."""


class Crash(msgspec.Struct, frozen=True):
    """A failure of the command's own.

    Attributes:
        exit_code: As a shell says it.
        kind: What is to be expected.
        why: One phrase.
        signature: The same for the same failure: status and last line, numbers taken out.
    """

    exit_code: int
    kind: Kind
    why: str
    signature: str


_RULES: tuple[tuple[Kind, str, str], ...] = (
    # Checked line by line from the last one up, so that a line's own words decide before those above it.
    (Kind.DETERMINISTIC, r"CUDA out of memory|OutOfMemoryError", "the same batch needs the same GPU memory"),
    (Kind.DETERMINISTIC, r"device-side assert", "an index is out of range, and will be again"),
    (Kind.TRANSIENT, r"\bNCCL\b.*(error|timeout|abort)|nccl\w*Error|DistBackendError", "a collective or its network failed"),
    (Kind.TRANSIENT, r"ConnectionError|Connection(Reset|Aborted|Refused)Error|BrokenPipeError", "a connection broke"),
    (Kind.TRANSIENT, r"ReadTimeout|ConnectTimeout|TimeoutException|timed out", "a server did not answer in time"),
    (Kind.TRANSIENT, r"IncompleteRead|ChunkedEncodingError|RemoteDisconnected|ProtocolError", "a download broke off"),
    (Kind.TRANSIENT, r"[Tt]emporary failure in name resolution|NameResolutionError|gaierror", "a name could not be resolved"),
    (Kind.DETERMINISTIC, r"GatedRepoError|RepositoryNotFoundError|40[134] Client Error", "the hub refuses this account or name"),
    (Kind.TRANSIENT, r"\b(429|5\d\d) (Client|Server) Error|Too Many Requests|Service Unavailable", "a server was overloaded"),
    (Kind.DETERMINISTIC, r"ModuleNotFoundError|ImportError", "a module cannot be imported"),
    (Kind.DETERMINISTIC, r"SyntaxError|IndentationError|NameError|AttributeError|TypeError", "the program itself is wrong"),
    (Kind.DETERMINISTIC, r"FileNotFoundError|NotADirectoryError|No such file or directory", "a file is not there"),
    (Kind.DETERMINISTIC, r"PermissionError|Permission denied", "a right is missing"),
    (Kind.DETERMINISTIC, r"No space left on device|Disk quota exceeded", "the disk stays full"),
    (Kind.DETERMINISTIC, r"error: (the following arguments|unrecognized arguments|argument )", "an argument is wrong"),
    (Kind.DETERMINISTIC, r"^(KeyError|ValueError)\b", "the same input gives the same error"),
)
"""(kind, pattern of a line, why); the first that matches a line decides."""
_SIGNALS: dict[int, tuple[Kind, str]] = {
    signal.SIGKILL: (Kind.TRANSIENT, "it was killed, by hand or for want of memory"),
    signal.SIGBUS: (Kind.TRANSIENT, "mapped memory had no page behind it: a full /dev/shm or a file that shrank"),
}
_STATUSES: dict[int, tuple[Kind, str]] = {
    2: (Kind.DETERMINISTIC, "status 2 says that the command line is wrong"),
    126: (Kind.DETERMINISTIC, "it cannot be executed"),
    127: (Kind.DETERMINISTIC, "it was not found"),
}


def classify(exit_code: int, signum: int | None, output: str) -> Crash:
    """Return what a failure is.

    Args:
        exit_code: As a shell says it; not 0.
        signum: The signal that ended the command, None for an exit of its own.
        output: The end of what it printed.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()][-_LAST_LINES:]
    last = lines[-1] if lines and signum is None else ""
    kind, why = _find(exit_code, signum, lines)
    return Crash(exit_code, kind, why, f"{exit_code} {re.sub(r'0x[0-9a-f]+|[0-9]+', '#', last)}"[:200])


def _find(exit_code: int, signum: int | None, lines: list[str]) -> tuple[Kind, str]:
    if signum is not None and signum in _SIGNALS:
        return _SIGNALS[signum]
    for line in reversed(lines):
        for kind, pattern, why in _RULES:
            if re.search(pattern, line):
                return kind, f"{why} ({line[:120]})"
    return _STATUSES.get(exit_code, (Kind.UNKNOWN, f"the command ended with status {exit_code}"))
