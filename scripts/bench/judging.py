"""What a judgement costs: CPU ms a sample for jobs of 1, 20, 100 and 1,000 processes, each with its files, connections and output.

The samples are made up (the judge is pure: it cannot tell), at 1 Hz, with the default timeouts: first a job that works, then the
same one silent up to its stall timeout, when all windows are full and looks are remembered. The target is 1 ms at 100 processes.
"""

from __future__ import annotations

import argparse
import time

from table import add_json_option, print_table, write_json

from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import ConnectionSample, FileSample, GpuSample, Look, OutputSample, Reading, Sample

FILES = 4
CONNECTIONS = 2
GPUS = 8
TARGET_MS = 1.0


def make_sample(count, at, is_working):
    """Return the sample of one second."""
    moved = at if is_working else 60.0
    processes = tuple(
        ProcessSample(
            ref=ProcessRef(1000 + n, n),
            ppid=1,
            comm="python",
            state="S",
            utime_s=moved,
            stime_s=moved / 10,
            reaped_cpu_s=0.0,
            minflt=int(1000 * moved),
            majflt=0,
            reaped_minflt=0,
            threads=50,
            rss_bytes=int(moved) << 20,
            thread_states={"S": 49, "R": 1} if int(at + n) % 4 == 0 else None,
            vctx=int(100 * at),
            nvctx=int(at),
            rchar=int(1e6 * moved),
            wchar=int(1e4 * moved),
            syscr=int(100 * moved),
            syscw=int(10 * moved),
            read_bytes=int(1e5 * moved),
            write_bytes=int(1e4 * moved),
            has_gpu=True,
        )
        for n in range(count)
    )
    files = tuple(FileSample(1, n, f"/data/shard-{n}", int(1e6 * moved), 1 << 40, n % 4 == 0) for n in range(FILES * count))
    connections = tuple(ConnectionSample(n, "10.0.0.2:443", int(1e5 * moved), 1000, n % 2 == 0) for n in range(CONNECTIONS * count))
    readings = tuple(Reading("aaaaaaaa", "n/total", 10 * moved + n, 1e6) for n in range(10)) if is_working else ()
    gpus = tuple(
        GpuSample(n, f"GPU-{n}", 50.0 if is_working else 0.0, dram=1.0 if is_working else 0.0, tensor=0.0, pcie_rx=1e5, pcie_tx=1e5)
        for n in range(GPUS)
    )
    looks = (Look(processes[0].ref, "bbbbbbbb", ("forward (model.py:7)",) * 6, True),) if at % 4 == 0 else ()
    output = OutputSample(int(100 * moved), int(10 * moved), readings)
    return Sample(at, at, processes, output, files, gpus, connections, looks)


def measure(count, repeats):
    """Return CPU ms a sample while the job works, and while it is silent; the smallest of several passes."""
    samples = [make_sample(count, float(at), at < 60) for at in range(60 + 170)]
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        memory, rules = Memory(), Rules()
        for part, chosen in enumerate((samples[:60], samples[60:])):
            before = time.process_time()
            for sample in chosen:
                memory, verdict = judge(memory, sample, rules)
            best[part] = min(best[part], (time.process_time() - before) / len(chosen) * 1e3)
        assert verdict.state.value != "hung"
    return best


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="passes, of which the fastest counts (default 3)")
    add_json_option(parser)
    options = parser.parse_args()
    rows, numbers = [], []
    for count in (1, 20, 100, 1000):
        working, silent = measure(count, options.repeats)
        rows.append((count, f"{working:.3f}", f"{silent:.3f}", f"{max(working, silent) / 10:.3f}"))
        numbers.append({"processes": count, "working_ms": working, "silent_ms": silent})
    title = f"CPU ms a sample; {FILES} files and {CONNECTIONS} connections a process, {GPUS} GPUs; target {TARGET_MS:g} at 100"
    print_table(title, ("processes", "working", "silent", "% of a core at 1 Hz"), rows)
    write_json(options.json, "judging", {"target_ms_at_100": TARGET_MS, "sizes": numbers})


if __name__ == "__main__":
    main()
