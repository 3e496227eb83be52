"""Files that were begun and not finished, as a killed process leaves them; found by name and size, nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator

MAX_ENTRIES = 3000
"""Entries looked at below one cache: about 20 ms on a local disk."""
MAX_FOUND = 20
_ENDINGS = (".incomplete", ".tmp", ".part", ".partial", ".temp")
_NEEDS_CONTENT = (".so", ".cubin", ".ptx", ".bin", ".json", ".safetensors", ".arrow", ".parquet", ".o", ".nbc", ".nbi")


def find_half_written(top: str, limit: int = MAX_ENTRIES) -> tuple[str, ...]:
    """Return files below a directory that look half-written, at most `MAX_FOUND`; links are not followed.

    A download that runs at this moment looks the same: what it is decides whoever knows whether anybody has it open.
    """
    found = []
    for entry in _walk(top, limit):
        try:
            is_empty = entry.name.endswith(_NEEDS_CONTENT) and entry.stat(follow_symlinks=False).st_size == 0
        except OSError:
            continue
        if entry.name.endswith(_ENDINGS) or is_empty or (entry.name.endswith(".py") and _is_empty_module(entry)):
            found.append(entry.path)
            if len(found) == MAX_FOUND:
                break
    return tuple(found)


def _is_empty_module(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name != "__init__.py" and not entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_size == 0
    except OSError:
        return False


def _walk(top: str, limit: int) -> Iterator[os.DirEntry[str]]:
    """Yield regular files, nearest level first, so that a deep tree does not hide what lies beside it."""
    level, seen = [top], 0
    while level:
        below: list[str] = []
        for directory in level:
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > limit:
                            return
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            yield entry
            except OSError:
                continue
        level = below
