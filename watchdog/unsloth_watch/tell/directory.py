"""The run directory: its place, its name and the names of the files in it.

On the launch path, so it imports nothing but ``os``, ``time`` and the errors.
"""

from __future__ import annotations

import os
import time

from unsloth_watch.errors import RunDirectoryError

TYPE_CHECKING = False  # as typing's constant; importing typing costs 4 ms before the launch
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAME_LIMIT = 40
"""Longest name in a directory's name, in characters: with time and suffix it stays readable in an 80-column listing."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_ATTEMPTS = 16
_RECORDS = ("run.json", "events.jsonl", "output.log", "samples.jsonl", "incidents")


class RunDirectory:
    """A run's directory and the files that the contract names in it.

    Attributes:
        path: Absolute path of the directory.
        id: The run's id: the directory's own name.
    """

    __slots__ = ("id", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = os.path.basename(path)

    def __repr__(self) -> str:
        return f"RunDirectory({self.path!r})"

    @property
    def summary(self) -> str:
        """Path of ``run.json``."""
        return os.path.join(self.path, "run.json")

    @property
    def events(self) -> str:
        """Path of ``events.jsonl``."""
        return os.path.join(self.path, "events.jsonl")

    @property
    def output(self) -> str:
        """Path of ``output.log``."""
        return os.path.join(self.path, "output.log")

    @property
    def samples(self) -> str:
        """Path of ``samples.jsonl``."""
        return os.path.join(self.path, "samples.jsonl")

    def incident(self, number: int) -> str:
        """Path of an incident's directory; ``number`` counts from 1. It is not made."""
        return os.path.join(self.path, "incidents", f"{number:02d}")


def find_base(environment: Mapping[str, str]) -> str:
    """Return the directory that holds all runs of this user.

    Source of the rule: XDG Base Directory Specification; a relative ``XDG_STATE_HOME`` is invalid and ignored.

    Args:
        environment: Variables, as in ``os.environ``.
    """
    state = environment.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        home = os.path.expanduser("~")
        if not home.startswith("/"):  # no HOME, and nobody of this number in /etc/passwd: a container's arbitrary user
            return find_temporary_base(environment)
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "unsloth-watch", "runs")


def find_temporary_base(environment: Mapping[str, str]) -> str:
    """Return the directory for runs where there is no home, or none that can be written.

    Args:
        environment: Variables, as in ``os.environ``.
    """
    return os.path.join(environment.get("TMPDIR") or "/tmp", f"unsloth-watch-{os.getuid()}", "runs")  # noqa: S108 - checked below


def find_kept_base(environment: Mapping[str, str]) -> str:
    """Return where runs are to be looked for: the usual place, or the temporary one of our own where only that is there.

    Args:
        environment: Variables, as in ``os.environ``.
    """
    base, temporary = find_base(environment), find_temporary_base(environment)
    try:
        is_own = os.lstat(os.path.dirname(temporary)).st_uid == os.geteuid()
    except OSError:
        return base
    return temporary if is_own and os.path.isdir(temporary) and not os.path.isdir(base) else base


def make_private(path: str) -> None:
    """Make a directory and what is missing above it with mode 0700, whatever the umask; one that is there stays as it is.

    Only while this process has a single thread: the umask belongs to all of them.

    Raises:
        OSError: It cannot be made.
    """
    mask = os.umask(0o077)  # not makedirs' mode: that counts for the last directory only
    try:
        os.makedirs(path, exist_ok=True)
    finally:
        os.umask(mask)


def claim_temporary_base(base: str) -> None:
    """Make sure that a directory in a place where everybody may write is ours, and make it where it is missing.

    Raises:
        RunDirectoryError: It cannot be made, or somebody else made it before us, who would then own our records.
    """
    top = os.path.dirname(base)
    try:
        make_private(top)
        status = os.lstat(top)
    except OSError as error:
        raise _explain(top, error) from error
    if status.st_mode & 0o170000 != 0o040000 or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise RunDirectoryError(f"{top} is not a directory of our own; choose another place with --runs-dir")


def clean_name(name: str) -> str:
    """Make a name fit for a directory: plain letters, digits, ``._-``; never hidden, never empty, at most 40 characters."""
    plain = "".join(sign if sign in _PLAIN else "-" for sign in name[: 4 * NAME_LIMIT])
    while "--" in plain:
        plain = plain.replace("--", "-")
    return plain.strip("-.")[:NAME_LIMIT].rstrip("-.") or "run"


def create_run_directory(base: str, name: str, wall: Callable[[], float]) -> RunDirectory:
    """Make ``base/<UTC time>-<name>-<4 hex>`` with mode 0700.

    Args:
        base: Directory of all runs, made where it is missing.
        name: What the user or the command calls this run; cleaned.
        wall: The clock for people, Unix seconds.

    Raises:
        RunDirectoryError: It cannot be made; the message names the place and the reason.
    """
    base = os.path.abspath(base)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall()))
    try:
        make_private(base)
        for _ in range(_ATTEMPTS):
            path = os.path.join(base, f"{stamp}-{clean_name(name)}-{os.urandom(2).hex()}")
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
            return RunDirectory(path)
    except OSError as error:
        raise _explain(base, error) from error
    raise RunDirectoryError(f"{base}: {_ATTEMPTS} names for this second are taken; start again or choose another --run-dir")


def use_run_directory(path: str) -> RunDirectory:
    """Take the very directory that the user named with ``--run-dir``, and make it where it is missing.

    Raises:
        RunDirectoryError: It cannot be made or written, or it holds the records of another run, or files of somebody's own with
            their names (a ``samples.jsonl`` of training data): they would be appended to, rotated or thinned.
    """
    path = os.path.abspath(path)
    try:
        make_private(path)
        taken = next((name for name in _RECORDS if os.path.lexists(os.path.join(path, name))), None)
        if taken is not None:
            whose = "the records of another run" if taken == "run.json" else f"a {taken} already, perhaps of another run"
            raise RunDirectoryError(f"{path} holds {whose}; choose another --run-dir or remove it")
        probe = os.path.join(path, f".probe-{os.getpid()}")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise _explain(path, error) from error
    return RunDirectory(path)


def _explain(path: str, error: OSError) -> RunDirectoryError:
    place = error.filename if isinstance(error.filename, str) else path
    where = path if place == path else f"{path} ({place})"
    reason = error.strerror or str(error)
    return RunDirectoryError(f"cannot make the run directory {where}: {reason}; choose another place with --run-dir or --runs-dir")
