"""What a tick of sensing costs: µs a process with 1, 20, 100 and 1,000 sleeping children.

The children are real ``sleep`` processes below a guardian. CPU time of this process is counted, not wall time, so that other load
on the machine matters less. Ticks come one after the other: with a second between them caches are colder and a tick costs up to
twice as much; ``--hz`` spaces them for a true figure.

``--whole N`` measures a whole supervisor instead, over a job of N processes that is silent from its start, for a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.gpu import GpuReader
from unsloth_watch.sense.inetdiag import InetDiag
from unsloth_watch.sense.output import OutputReader
from unsloth_watch.sense.procfs import ProcessReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.sense.tree import ProcessTree

GUARDIAN = (
    "import os, sys\nfor _ in range(int(sys.argv[1])): os.posix_spawn('/bin/sleep', ['sleep', '3600'], {})\n"
    "print('ready', flush=True); sys.stdin.read()"
)
KINDS = {
    "sleep": "os.posix_spawn('/bin/sleep', ['sleep', '3600'], {})",
    "python asleep": "os.fork() or time.sleep(3600)",
    "python in a lock": "os.fork() or [lock.acquire() for lock in [threading.Lock()] for _ in range(2)]",
}
SILENT = "import os, sys, threading, time\nfor _ in range(int(sys.argv[1])): {}\nos.wait()"
PERIODS_S = (40.0, 50.0)
BAR = "\r 12%|█▏        | {}/60000 [00:08<00:52,  1.01it/s]"


def measure(call, ticks, pause_s):
    """Return CPU µs a call, after one to warm up."""
    call()
    used = 0.0
    for _ in range(ticks):
        time.sleep(pause_s)
        before = time.process_time()
        call()
        used += time.process_time() - before
    return used / ticks * 1e6


def measure_tree(count, ticks, pause_s):
    """Return the costs of each sense for a job of ``count`` processes."""
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GUARDIAN, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert guardian.stdout.readline() == b"ready\n"
        tree, processes, files, output = ProcessTree((guardian.pid,)), ProcessReader(), FileReader(), OutputReader()
        refs = tree.members()
        assert len(refs) == count
        step = iter(range(10**9))

        def printed():
            fresh = b"".join(BAR.format(next(step)).encode() for _ in range(10))
            return output.feed(fresh, 0)

        sampler = Sampler(tree, printed, files, GpuReader(), 1.0, processes=processes)
        clock = iter(range(10**9))
        costs = {
            "tree": measure(tree.members, ticks, pause_s),
            "processes": measure(lambda: processes.read_all(refs), ticks, pause_s),
            "files": measure(lambda: files.read(refs), ticks, pause_s),
            "output": measure(printed, ticks, pause_s),
            "tick": measure(lambda: sampler.sample(next(clock), 0.0), ticks, pause_s),
        }
        costs["tick_us_a_process"] = costs["tick"] / count
        costs["core_percent_at_1_hz"] = costs["tick"] / 1e4
        sampler.close()
        return {"processes_in_job": count, **{name: round(value, 2) for name, value in costs.items()}}
    finally:
        os.killpg(guardian.pid, signal.SIGKILL)
        guardian.wait()


def measure_connections(count, ticks):
    """Return what one question to the kernel costs, CPU µs, with so many more TCP sockets on the host, 20 of them the job's."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        ends = []
        for _ in range(count // 2):
            ends += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
        wanted = {os.fstat(end.fileno()).st_ino for end in ends[:20]}
        diag = InetDiag()
        cost = measure(lambda: diag.list_sockets(wanted), ticks, 0.0)
        diag.close()
        for end in ends:
            end.close()
    return {"sockets": count, "us": round(cost, 1)}


def read_cpu_s(pid):
    """Return the CPU seconds of a process, and of the children that it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    own, reaped = (sum(map(int, fields[first : first + 2])) for first in (11, 13))
    return own / os.sysconf("SC_CLK_TCK"), reaped / os.sysconf("SC_CLK_TCK")


def measure_whole(count, work):
    """Return what a supervisor uses over a job that is silent from its start: percent of a core, its own and its helpers'."""
    watch = str(Path(sys.executable).with_name("unsloth-watch"))
    with tempfile.TemporaryDirectory() as place:
        # Far timeouts: what is measured is how it watches, and neither an incident nor an end.
        job = [watch, "--stall-timeout", "30m", "--on-hang", "report", "--", sys.executable, "-c", SILENT.format(work), str(count)]
        supervisor = subprocess.Popen(
            job,
            env={**os.environ, "XDG_STATE_HOME": place},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        shares = []
        try:
            before = (0.0, 0.0)
            for seconds in PERIODS_S:
                time.sleep(seconds)
                now = read_cpu_s(supervisor.pid)
                shares += [round((after - earlier) / seconds * 100, 1) for after, earlier in zip(now, before, strict=True)]
                before = now
            recorded = sum(path.stat().st_size for path in Path(place).rglob("samples.jsonl")) / 1e6
        finally:
            supervisor.terminate()
            supervisor.wait()
    names = ("first_own_percent", "first_helpers_percent", "later_own_percent", "later_helpers_percent")
    return {**dict(zip(names, shares, strict=True)), "samples_mb": round(recorded, 2)}


def main():
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--ticks", type=int, default=30)
    parser.add_argument("--hz", type=float, default=0.0, help="ticks a second; 0 is one after the other")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 20, 100, 1000])
    parser.add_argument("--whole", type=int, metavar="N", help="a whole supervisor over N silent processes, of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="for --whole")
    options = parser.parse_args()
    if options.whole:
        found = {kind: measure_whole(options.whole, KINDS[kind]) for kind in options.kinds}
        print(
            f"{options.whole} silent processes, percent of a core: the first {PERIODS_S[0]:.0f} s, the {PERIODS_S[1]:.0f} s after"
        )
        for kind, shares in found.items():
            print(f"{kind:>20}  " + "  ".join(f"{name} {value}" for name, value in shares.items()))
        if options.json:
            Path(options.json).write_text(json.dumps({"processes": options.whole, "whole": found}, indent=1), encoding="utf-8")
        return
    rows = [measure_tree(count, options.ticks, 1 / options.hz if options.hz else 0.0) for count in options.counts]
    names = list(rows[0])
    print("CPU µs a tick\n" + "  ".join(f"{name:>20}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:>20}" for name in names))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 16_000 if hard == resource.RLIM_INFINITY else min(16_000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    connections = [measure_connections(count, options.ticks) for count in (0, 60, 600, 6000) if count + 100 < most]
    print("CPU µs to ask for TCP connections: " + ", ".join(f"{row['us']:g} with {row['sockets']} sockets" for row in connections))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory of this process: {peak_mb:.1f} MB")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "kernel": os.uname().release,
                    "python": sys.version.split()[0],
                    "peak_mb": peak_mb,
                    "rows": rows,
                    "connections": connections,
                },
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
