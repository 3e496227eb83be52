"""Amounts of bytes in words."""

from __future__ import annotations


def format_size(count: float) -> str:
    """Return ``12 KiB`` or ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
