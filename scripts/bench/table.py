"""What all benchmarks share: a table on the screen and the same numbers as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json PATH``."""
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file too")


def median(values: Sequence[float]) -> float:
    """Return the median, NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def spread(values: Sequence[float]) -> str:
    """Return the range in which the values lie, for people."""
    return f"{min(values):.1f}–{max(values):.1f}" if values else "–"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table, columns aligned."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def write_json(path: Path | None, benchmark: str, numbers: Mapping[str, object]) -> None:
    """Write the numbers with what they were measured on."""
    if path is None:
        return
    host = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count(), "load": os.getloadavg()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": benchmark, "host": host, **numbers}, indent=2) + "\n")
