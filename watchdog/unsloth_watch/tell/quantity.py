"""Numbers with their units, as short as a table or a plot wants them."""

from __future__ import annotations


def format_quantity(value: float, unit: str) -> str:
    """Return a number with its unit, bytes in powers of 1024: ``1.5 MiB/s``, ``0.04 cores``, ``87 %``."""
    if unit.startswith("B"):
        rest = unit[1:]
        for prefix in ("", "Ki", "Mi", "Gi"):
            if abs(value) < 1024:
                return f"{_short(value)} {prefix}B{rest}"
            value /= 1024
        return f"{_short(value)} TiB{rest}"
    shown = _short(value)
    return f"{shown} {unit.removesuffix('s') if shown == '1' else unit}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
