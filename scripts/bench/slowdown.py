"""What supervision costs a real fine-tune: the tiny Trainer run with and without unsloth-watch, in interleaved pairs.

usage: python scripts/bench/slowdown.py [--pairs 10] [--json PATH]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import add_json_option, median, print_table, spread, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from environments import python_of

WATCH = str(Path(sys.executable).with_name("unsloth-watch"))
JOB = Path(__file__).resolve().parent.parent.parent / "tests" / "founding" / "tiny_finetune.py"


def measure(prefix: list[str], python: Path) -> float:
    """Return the seconds of one whole run."""
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "XDG_STATE_HOME": place, "PYTHONUNBUFFERED": "1"}
        began = time.monotonic()
        subprocess.run([*prefix, str(python), str(JOB), "out"], cwd=place, env=environment, check=True, capture_output=True)
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    add_json_option(parser)
    options = parser.parse_args()
    python = python_of("modern")
    launchers = {"bare": [], "unsloth-watch": [WATCH, "--"]}
    measure([], python)  # warms the caches
    times: dict[str, list[float]] = {name: [] for name in launchers}
    for number in range(options.pairs):
        # Who goes first alternates, so that a machine that warms up or slows down favours nobody.
        for name in list(launchers) if number % 2 else list(launchers)[::-1]:
            times[name].append(measure(launchers[name], python))
    ratios = [watched / bare for watched, bare in zip(times["unsloth-watch"], times["bare"], strict=True)]
    print_table(
        f"The tiny fine-tune, {options.pairs} interleaved pairs: seconds",
        ["launcher", "median", "range"],
        [[name, f"{median(found):.2f}", spread(found)] for name, found in times.items()],
    )
    print(f"ratio of the pairs: median {median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}")
    write_json(options.json, "slowdown", {"seconds": times, "ratios": ratios})


if __name__ == "__main__":
    main()
