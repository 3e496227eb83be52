"""One value as one line of JSON, and lines of JSON as values; neither fails on what a file or a path may hold."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes; a longer line is no record of ours (1,000 processes make 0.3 MB) but a damaged file, and is skipped."""


def encode_line(value: object) -> bytes:
    r"""Return ``value`` as JSON without a newline.

    Paths that are no UTF-8 arrive as lone surrogates, which JSON cannot hold: they are written as ``\udcff``. Numbers that are
    not finite become null. Objects of unknown types are written as their text.
    """
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        return msgspec.json.encode(_scrub(msgspec.to_builtins(value, enc_hook=str)), enc_hook=str)


def read_lines(path: str) -> Iterator[bytes]:
    """Yield the whole lines of a file; a torn last line and empty lines are left out.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with open(path, "rb") as stream:
        while line := stream.readline(LONGEST_LINE):
            if line.endswith(b"\n") and line.strip():
                yield line


def _scrub(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    return value
