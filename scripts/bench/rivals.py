"""What others would have said of the programs of the zoo: two rules of thumb, and two launchers.

The rules ("no output for N s", "GPU below 5 % for N s") are applied to the samples that unsloth-watch took of the very same run.
The launchers (torchrun, ft_launcher as it comes and with all its timeouts at the stall timeout) get runs of their own, in the
environment ``peers``. Neither launcher needs a change of the program to be asked; ft_launcher watches only programs that send it
heartbeats, and what it then says of one that does not is its answer.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unsloth_watch.model.sample import Sample
from unsloth_watch.tell.samples import read_samples

if TYPE_CHECKING:
    from zoorun import Run

SILENT, GPU_IDLE = "no output", "GPU < 5 %"
TORCHRUN, FT, FT_TIMED = "torchrun", "ft_launcher", "ft_launcher, timed"
GPU_IDLE_PERCENT = 5.0
PATIENCE = 2.0
"""Stall timeouts after the hang's moment that a rival is given."""
SLACK_S = 5.0
"""Seconds beyond them: a rule that counts from the last output fires that much later than one that counts from the hang."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Opinion:
    """What a rival said of one program.

    Attributes:
        verdict: ``found``, ``missed``, ``premature``, ``ok``, ``false kill``, or ``-`` where it cannot be asked: no GPU, no sample.
        latency_s: From the hang's moment; None unless found.
    """

    verdict: str
    latency_s: float | None = None


def opinion_of(*, is_hang: bool, fired_at: float | None, moment: float | None) -> Opinion:
    """Return the opinion of somebody who called a hang at a time, or never (None). Both times are monotonic."""
    if not is_hang:
        return Opinion("ok" if fired_at is None else "false kill")
    if fired_at is None:
        return Opinion("missed")
    if moment is None or fired_at < moment:
        return Opinion("premature")
    return Opinion("found", round(fired_at - moment, 2))


def ask_rules(samples: Path, stall_s: float, *, is_hang: bool, moment: float | None) -> dict[str, Opinion]:
    """Return what the rules of thumb say of a recorded run."""
    try:
        seen = list(read_samples(str(samples)))
    except OSError:
        seen = []
    opinions = {SILENT: Opinion("-"), GPU_IDLE: Opinion("-")}
    if seen:
        opinions[SILENT] = opinion_of(is_hang=is_hang, fired_at=find_silence(seen, stall_s), moment=moment)
    if any(sample.gpus for sample in seen):
        opinions[GPU_IDLE] = opinion_of(is_hang=is_hang, fired_at=find_idle_gpu(seen, stall_s), moment=moment)
    return opinions


def find_silence(samples: Iterable[Sample], seconds: float) -> float | None:
    """Return when nothing had been printed for so long, None if that was never so."""
    since, printed = None, -1
    for sample in samples:
        count = sample.output.total_bytes if sample.output is not None else printed
        if since is None or count != printed:
            since, printed = sample.at, count
        if sample.at - since >= seconds:
            return sample.at
    return None


def find_idle_gpu(
    samples: Iterable[Sample], seconds: float, percent: float = GPU_IDLE_PERCENT, *, is_armed_by_use: bool = False
) -> float | None:
    """Return when every device had been below the line for so long, None if that was never so; an unknown utilisation is above.

    Args:
        samples: What was seen, oldest first.
        seconds: How long is too long.
        percent: The line.
        is_armed_by_use: Whether it counts only from the first time on that a device was not below the line.
    """
    since, is_armed = None, not is_armed_by_use
    for sample in samples:
        known = [gpu.utilization for gpu in sample.gpus or ()]
        is_idle = bool(known) and all(one is not None and one < percent for one in known)
        is_armed = is_armed or any(one is not None and one >= percent for one in known)
        since = None if not (is_idle and is_armed) else sample.at if since is None else since
        if since is not None and sample.at - since >= seconds:
            return sample.at
    return None


def launcher_commands(python: Path, stall_s: float) -> dict[str, list[str]]:
    """Return the launchers' commands, up to the program's own."""
    plain = ["--standalone", "--nproc-per-node=1", "--max-restarts=0"]
    launcher = [str(python), "-m", "nvidia_resiliency_ext.fault_tolerance.launcher", *plain]
    timeout = f"{stall_s:g}"
    timed = [
        f"--ft-initial-rank-heartbeat-timeout={timeout}",
        f"--ft-rank-heartbeat-timeout={timeout}",
        f"--ft-rank-out-of-section-timeout={timeout}",
        "--ft-workload-check-interval=1",
    ]
    return {
        TORCHRUN: [str(python), "-m", "torch.distributed.run", *plain, "--no-python"],
        # Without a configuration it refuses to start unless it is told that there is none.
        FT: [*launcher, "--ignore-missing-fault-tol-cfg", "--no-python"],
        FT_TIMED: [*launcher, *timed, "--no-python"],
    }


def ask_launcher(run: Run, command: list[str]) -> Opinion:
    """Run a program below a launcher, and return what that makes of it: ending a program that hangs is finding it."""
    process = run.start([*command, *run.command])
    try:
        status, ended_at = wait_for_end(run, process)
    finally:
        run.close(process)
    if not run.program.is_hang:
        return Opinion("ok" if status == 0 and "ZOO DONE" in run.printed() else "false kill")
    return opinion_of(is_hang=True, fired_at=ended_at, moment=run.hang_moment())


def wait_for_end(run: Run, process: subprocess.Popen[bytes]) -> tuple[int | None, float | None]:
    """Wait until a command ends, or a hang has lasted long enough; return its status and when it ended, None if it did not."""
    limit = time.monotonic() + run.limit_s
    while process.poll() is None:
        moment, now = run.hang_moment(), time.monotonic()
        if now > limit or (run.program.is_hang and moment is not None and now > moment + PATIENCE * run.stall_s + SLACK_S):
            return None, None
        time.sleep(_POLL_S)
    return process.returncode, time.monotonic()


def summarize_rivals(opinions: Iterable[tuple[bool, dict[str, Opinion]]]) -> dict[str, dict[str, object]]:
    """Return the totals of each rival from (whether the program hangs, what everybody said)."""
    asked: dict[str, list[tuple[bool, Opinion]]] = {}
    for is_hang, said in opinions:
        for name, opinion in said.items():
            if opinion.verdict != "-":
                asked.setdefault(name, []).append((is_hang, opinion))
    totals: dict[str, dict[str, object]] = {}
    for name, said_of in asked.items():
        hangs = [opinion for is_hang, opinion in said_of if is_hang]
        healthy = [opinion for is_hang, opinion in said_of if not is_hang]
        times = sorted(opinion.latency_s for opinion in hangs if opinion.latency_s is not None)
        totals[name] = {
            "found": sum(opinion.verdict == "found" for opinion in hangs),
            "premature": sum(opinion.verdict == "premature" for opinion in hangs),
            "hangs": len(hangs),
            "latency_median_s": statistics.median(times) if times else None,
            "latency_slowest_s": times[-1] if times else None,
            "false_kills": sum(opinion.verdict == "false kill" for opinion in healthy),
            "healthy": len(healthy),
        }
    return totals


def describe(opinions: dict[str, Opinion]) -> str:
    """Return what everybody said of one program, in a line."""
    parts = []
    for name, one in opinions.items():
        latency = f" {one.latency_s:.1f} s" if one.latency_s is not None else ""
        parts.append(f"{name}: {one.verdict}{latency}")
    return "; ".join(parts)


def describe_totals(totals: dict[str, dict[str, object]]) -> Iterator[str]:
    """Yield a line for each rival."""
    for name, one in totals.items():
        median = one["latency_median_s"]
        latency = f"{median:.1f} s (slowest {one['latency_slowest_s']:.1f} s)" if median is not None else "-"
        yield (
            f"{name:28} found {one['found']} of {one['hangs']}, {one['premature']} too early, latency {latency}; "
            f"false kills {one['false_kills']} of {one['healthy']}"
        )
