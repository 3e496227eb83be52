"""Whether a directory can be written: by writing into it as the job would, else by its permission bits."""

from __future__ import annotations

import errno
import os
import secrets
import stat

import msgspec

PROBE_BYTES = 4096
"""One block: an empty file can be created on a full disk, its first block cannot be written."""
_OVERRIDE = 1 << 1
# CAP_DAC_OVERRIDE in the masks of /proc/PID/status.


class Identity(msgspec.Struct, frozen=True):
    """Whose rights count.

    Attributes:
        uid: File system user id.
        groups: Groups, the primary one among them.
        has_override: Whether permission bits do not bind it.
    """

    uid: int
    groups: frozenset[int]
    has_override: bool


class WriteProbe(msgspec.Struct, frozen=True):
    """Result.

    Attributes:
        is_writable: Whether it worked; None if it could not be tried.
        problem: Why not, for people; empty when it worked.
    """

    is_writable: bool | None
    problem: str = ""


def read_identity(pid: int | str) -> Identity | None:
    """Return the rights of a process as of ``/proc/PID/status``; None if unreadable."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
        groups = frozenset(int(group) for group in (*fields["Gid"].split()[3:], *fields["Groups"].split()))
        return Identity(int(fields["Uid"].split()[3]), groups, bool(int(fields["CapEff"], 16) & _OVERRIDE))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def probe_write(directory: str, job: Identity | None, own: Identity | None) -> WriteProbe:
    """Return whether the job can create a file with content in an existing directory.

    Where the job has our rights, a file of a random name is created, given one block and removed: only that shows a full disk,
    a quota or a read-only mount. Otherwise the permission bits are read with the job's rights, and the medium is tried if we may.

    Args:
        directory: Existing directory.
        job: The job's rights; None if unreadable, then ours are taken for them.
        own: Our rights.
    """
    if job is not None and own is not None and job != own:
        refusal = _judge_bits(directory, job)
        if refusal is not None:
            return refusal
        if not own.has_override and own.uid != job.uid:
            return WriteProbe(True)
    return _write(directory)


def _judge_bits(directory: str, job: Identity) -> WriteProbe | None:
    """Return the refusal of a directory's permission bits, None if they allow writing."""
    if job.has_override:
        return None
    try:
        status = os.stat(directory)
    except OSError as error:
        return WriteProbe(None, f"it cannot be asked for its permissions ({error.strerror})")
    if status.st_uid == job.uid:
        needed = stat.S_IWUSR | stat.S_IXUSR
    elif status.st_gid in job.groups:
        needed = stat.S_IWGRP | stat.S_IXGRP
    else:
        needed = stat.S_IWOTH | stat.S_IXOTH
    if status.st_mode & needed == needed:
        return None
    mode = stat.filemode(status.st_mode)
    return WriteProbe(False, f"user {job.uid} may not write into it (mode {mode}, owner {status.st_uid})")


def _write(directory: str) -> WriteProbe:
    name = f".unsloth-watch-probe-{secrets.token_hex(8)}"
    try:
        where = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return WriteProbe(False if error.errno in {errno.EACCES, errno.EPERM} else None, f"it cannot be opened ({error.strerror})")
    try:
        # O_EXCL follows no link, and the descriptor keeps the directory the same one between the two steps.
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=where)
    except OSError as error:
        os.close(where)
        return WriteProbe(False, f"a file cannot be created in it ({error.strerror})")
    try:
        written = os.write(file, bytes(PROBE_BYTES))
        problem = "" if written == PROBE_BYTES else f"only {written} of {PROBE_BYTES} bytes could be written: its disk is full"
    except OSError as error:
        problem = f"a file in it cannot be written ({error.strerror})"
    finally:
        os.close(file)
        os.unlink(name, dir_fd=where)
        os.close(where)
    return WriteProbe(not problem, problem)
