"""Bytes of /proc as text that every encoder accepts."""

from __future__ import annotations


def decode(raw: bytes) -> str:
    r"""Return ``raw`` as text; bytes that are no UTF-8 appear as ``\xNN``.

    Not ``surrogateescape``: msgspec, like JSON itself, refuses lone surrogates, and one odd file name must not cost a report.
    """
    return raw.decode("utf-8", "backslashreplace")
