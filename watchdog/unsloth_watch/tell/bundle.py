"""``bundle.tar.gz``: an incident in one file that may be sent to somebody else."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator

from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.secretmarks import Marks, hide

NAME = "bundle.tar.gz"
KEPT = "kept"
"""Folder of an incident with the bytes that were drained from a pipe of the job: raw, so never sent to anybody."""
_RECORDS = ("run.json", "events.jsonl", "samples.jsonl")
OUTPUT_BYTES = 4 * 1024 * 1024
"""Bytes of the output's end that a bundle holds: the whole may be gigabytes, and an attachment has a limit of 25 MB."""


def build_bundle(run_directory: str, number: int, redactor: Redactor | None = None, marks: Marks | None = None) -> str:
    """Pack an incident with its run's records; return the path of the archive, in the incident's directory.

    Links are not followed and owners are left out. ``output.log`` holds what the command printed, secrets included, so it goes
    in only where a redactor is given, and redacted.

    Args:
        run_directory: The run.
        number: The incident, from 1.
        redactor: Redacts the output.
        marks: By which the run's own secrets are found in the output.

    Raises:
        OSError: Something cannot be read, or the archive cannot be written; nothing is left behind then.
    """
    incident = os.path.join(run_directory, "incidents", f"{number:02d}")
    top = f"{os.path.basename(os.path.abspath(run_directory))}-{number:02d}"
    target = os.path.join(incident, NAME)
    temporary = f"{target}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with (
            open(descriptor, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path, name in _list_files(run_directory, incident):
                with open(path, "rb") as stream:
                    _add(archive, f"{top}/{name}", stream.read(), os.stat(path).st_mtime)
            if redactor is not None:
                _add_output(archive, top, os.path.join(run_directory, "output.log"), redactor, marks)
        os.rename(temporary, target)
    except BaseException:  # also Ctrl-C: no half bundle stays, and the fault goes on to the caller
        os.unlink(temporary)
        raise
    return target


def _list_files(run_directory: str, incident: str) -> Iterator[tuple[str, str]]:
    """Yield the plain files and their names in the archive; links, half-written files, drained bytes and bundles stay out."""
    for name in _RECORDS:
        path = os.path.join(run_directory, name)
        if _is_plain(path):
            yield path, name
    for directory, folders, names in os.walk(incident):
        folders[:] = sorted(name for name in folders if name != KEPT)
        for name in sorted(names):
            path = os.path.join(directory, name)
            if not _is_plain(path) or name.startswith((NAME, ".")):
                continue
            yield path, os.path.relpath(path, incident)


def _is_plain(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _add_output(archive: tarfile.TarFile, top: str, path: str, redactor: Redactor, marks: Marks | None) -> None:
    if not _is_plain(path):
        return
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - OUTPUT_BYTES))
        data = stream.read(OUTPUT_BYTES)
    if size > OUTPUT_BYTES:
        data = data.partition(b"\n")[2]  # the first line may be half a secret
    text = data.decode("utf-8", "backslashreplace")
    text = redactor.text(hide(text, marks) if marks is not None else text)
    _add(archive, f"{top}/output.log", text.encode("utf-8", "backslashreplace"), os.stat(path).st_mtime)


def _add(archive: tarfile.TarFile, name: str, data: bytes, modified: float) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(modified)
    archive.addfile(entry, io.BytesIO(data))
