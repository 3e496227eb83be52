"""Sizes as people write them: ``500M``, ``20G``, ``1.5T``; powers of 1024, as disks' tools count."""

from __future__ import annotations

import re

_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return bytes.

    Raises:
        ValueError: Not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 500M, 20G or a number of bytes")
    return int(float(match[1]) * _FACTORS[match[2].lower()])
