"""What the supervisor costs: time to the command's exec and in all, against bare launches and the peers; memory and CPU.

usage: python scripts/bench/launching.py [--runs 15] [--peers] [--seconds 30] [--json PATH]

All launchers take turns in one run, so that they meet the same machine. The command is date(1): it prints the moment at which it
runs. ``--peers`` builds the environments with torchrun and NVRx's ``ft_launcher`` first.

Unset PYTHONDONTWRITEBYTECODE and PYTHONUNBUFFERED: a launcher that compiles itself anew at every start is not what users have.
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
DATE = ["date", "+%s.%N"]
CHILDREN = 20
PEERS = ("torchrun", "ft_launcher")


def measure_launch(prefix: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return milliseconds to the command's own clock reading, and to the end of all."""
    began = time.time()
    command = [*prefix, *DATE]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    ended = time.time()
    moment = float(result.stdout.strip().splitlines()[-1])
    return 1000 * (moment - began), 1000 * (ended - began)


def read_cpu_s(pid: int) -> float:
    """Return CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_rss_mb(pid: int) -> float:
    """Return the resident set in MB, shared pages included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure_steady(seconds: float, environment: dict[str, str]) -> dict[str, float]:
    """Return memory and CPU of the supervisor over a job of 20 processes that counts its steps, one a second.

    One that is silent is looked at more closely for its first minute, which is not what a steady job costs.
    """
    job = (
        f"import itertools, select, subprocess, sys\n[subprocess.Popen(['sleep', '1000']) for _ in range({CHILDREN - 1})]\n"
        "print('ready', flush=True)\nfor step in itertools.count():\n    print(f'step {step}/100000', flush=True)\n"
        "    if select.select([sys.stdin], [], [], 1)[0]: break\n"
    )
    command = [WATCH, "--stall-timeout", "1h", "--busy-timeout", "2h", "--", sys.executable, "-c", job]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(5)
        guardian = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        began, cpu, other = time.monotonic(), read_cpu_s(process.pid), read_cpu_s(guardian)
        time.sleep(seconds)
        elapsed = time.monotonic() - began
        found = {
            "supervisor_rss_mb": read_rss_mb(process.pid),
            "guardian_rss_mb": read_rss_mb(guardian),
            "supervisor_cpu_percent": 100 * (read_cpu_s(process.pid) - cpu) / elapsed,
            "guardian_cpu_percent": 100 * (read_cpu_s(guardian) - other) / elapsed,
        }
        process.communicate(b"\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--peers", action="store_true", help="also torchrun and ft_launcher (builds their environments)")
    parser.add_argument("--seconds", type=float, default=30, help="how long the steady state is watched")
    add_json_option(parser)
    options = parser.parse_args()

    launchers: dict[str, list[str]] = {
        "bare": [],
        "python -c (subprocess)": [sys.executable, "-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"],
        "unsloth-watch": [WATCH, "--"],
    }
    if options.peers:
        torchrun = [str(python_of("base")), "-m", "torch.distributed.run"]
        launchers["torchrun"] = [*torchrun, "--nproc-per-node=1", "--no-python"]
        # Without --standalone it waits for a rendezvous that nobody keeps.
        ft_launcher = str(python_of("peers").with_name("ft_launcher"))
        launchers["ft_launcher"] = [
            ft_launcher,
            "--standalone",
            "--nnodes=1",
            "--nproc-per-node=1",
            "--max-restarts=0",
            "--no-python",
        ]
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "XDG_STATE_HOME": state}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in launchers}
        failed: dict[str, str] = {}
        for number in range(options.runs + 1):
            for name, prefix in launchers.items():
                # They take seconds: a third of the rounds is enough.
                if name in failed or (name in PEERS and number % 3):
                    continue
                try:
                    measured = measure_launch(prefix, environment)
                except (OSError, subprocess.CalledProcessError, ValueError) as error:
                    failed[name] = str(error)
                    continue
                if number:  # the first round warms the caches
                    times[name].append(measured)
        steady = measure_steady(options.seconds, environment)

    numbers = {
        name: {"runs": len(found), "exec_ms": median([one[0] for one in found]), "total_ms": median([one[1] for one in found])}
        for name, found in times.items()
        if found
    }
    print_table(
        "Launching date(1): milliseconds, median (range)",
        ["launcher", "runs", "to the command", "in all", "over bare, in all"],
        [
            [
                name,
                found["runs"],
                f"{found['exec_ms']:.1f} ({spread([one[0] for one in times[name]])})",
                f"{found['total_ms']:.1f} ({spread([one[1] for one in times[name]])})",
                f"{found['total_ms'] - numbers['bare']['total_ms']:.1f}",
            ]
            for name, found in numbers.items()
        ],
    )
    for name, why in failed.items():
        print(f"{name} could not be measured: {why}")
    print_table(
        f"Steady state, {CHILDREN} processes, 1 Hz, {options.seconds:.0f} s",
        ["process", "resident MB", "% of a core"],
        [[who, f"{steady[f'{who}_rss_mb']:.1f}", f"{steady[f'{who}_cpu_percent']:.2f}"] for who in ("supervisor", "guardian")],
    )
    write_json(options.json, "launching", {"launch": numbers, "failed": failed, "steady": steady})


if __name__ == "__main__":
    main()
