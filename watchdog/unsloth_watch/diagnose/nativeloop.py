"""Loops of programs without Python, whose stacks nobody can read: ``busy-loop`` and ``poll-loop`` by what the samples show."""

from __future__ import annotations

import msgspec

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Diagnosis, Statement, Status
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.want import Aim

MIN_CORE, MIN_CORE_POLL = 0.03, 0.1
"""Share of a core from which a process computes, and one that sleeps in between.

The judge asks for 10 % of one process, and for less on a crowded machine.
"""
MIN_RETURNS = 3
"""Wake-ups in the samples from which a wait by the clock counts as a loop."""
_CONFIDENCE = 0.45
"""A little above a guess from one look at the states of threads: it rests on what the samples measured."""


class Rates(msgspec.Struct, frozen=True):
    """What the samples show of one process.

    Attributes:
        seconds: How long it was seen.
        core: Share of a core that it used.
        returns: How often its main thread went to sleep; None where that could not be read.
    """

    seconds: float
    core: float
    returns: int | None


class NativeSpin:
    """A program without Python that computes until the judge holds it to be hung. Never more than a hypothesis."""

    id = "busy-loop"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the processes that compute; None where none does, where one runs Python, or before the judge's word."""
        found = _find_native(case)
        if found is None:
            return None
        least = MIN_CORE_POLL if found.want.aim is Aim.TIMED else MIN_CORE
        busy = {
            process.ref.pid: rates.core
            for process in case.processes
            if (rates := measure(case, process.ref)) is not None and rates.core >= least
        }
        key = next((main for pid in busy if (main := found.graph.main_of(pid)) is not None), None)
        if key is None:
            return None
        who = ", ".join(f"PID {pid} ({core:.0%} of a core)" for pid, core in list(busy.items())[:5])
        is_one = len(busy) == 1
        return _explain(
            found,
            key,
            self.id,
            "The program computes and gets no further",
            f"{who} compute{'s' if is_one else ', perhaps for each other'}, and nothing of the work shows outside: either that does"
            " not end, or it needs longer than the busy timeout.",
            more=_tell_output(case),
        )


class NativePoll:
    """A program without Python that sleeps and wakes again until the judge holds it to be hung. Never more than a hypothesis."""

    id = "poll-loop"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the process that goes on by the clock; None where the waiting ends elsewhere."""
        found = _find_native(case)
        if found is None or found.want.aim is not Aim.TIMED or not found.thread.is_main:
            return None
        rates = measure(case, found.process.ref)
        if rates is None or rates.returns is None or rates.returns < MIN_RETURNS:
            return None
        output = _tell_output(case)
        said = f" It goes on printing: {output[0].statement}." if output else ""
        return _explain(
            found,
            found.end,
            self.id,
            "The program sleeps and looks again, and nothing comes of it",
            f"{tell(found, found.end)}, and woke {rates.returns} times in {rates.seconds:.0f} s without getting any further.{said}",
            more=output,
        )


def measure(case: Case, ref: ProcessRef) -> Rates | None:
    """Return what the kept samples show of a process; None where it is in fewer than two of them."""
    seen = [(sample.at, one) for sample in case.samples for one in sample.processes or () if one.ref == ref]
    if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
        return None
    (start, first), (end, last) = seen[0], seen[-1]
    returns = None if first.vctx is None or last.vctx is None else last.vctx - first.vctx
    return Rates(end - start, (_cpu_s(last) - _cpu_s(first)) / (end - start), returns)


def _cpu_s(process: ProcessSample) -> float:
    return process.utime_s + process.stime_s


def _find_native(case: Case) -> Trace | None:
    """Return the chain of a job without Python that the judge holds to be hung and could not prove to be; None for all else."""
    found = trace(case)
    if found is None or not found.is_lasting or found.is_proven:
        return None
    is_native = all(process.python_version is None for process in case.processes)
    return found if is_native and not found.thread.frames else None


def _tell_output(case: Case) -> tuple[Statement, ...]:
    """Return how much was printed over the kept samples, none of which said that the work moved."""
    outputs = [(sample.at, sample.output) for sample in case.samples if sample.output is not None]
    if len(outputs) < 2:
        return ()
    lines = outputs[-1][1].lines - outputs[0][1].lines
    words = f"{lines} lines in {outputs[-1][0] - outputs[0][0]:.0f} s, and no number in them got beyond its best"
    return (Statement(words, "output"),) if lines > 0 else ()


def _explain(found: Trace, key: Key, cause: str, title: str, summary: str, *, more: tuple[Statement, ...]) -> Diagnosis:
    return explain(
        found,
        cause,
        title,
        summary,
        Status.HYPOTHESIS,
        confidence=_CONFIDENCE,
        culprit=make_culprit(found, key),
        refuted_by="files, results or counters of the work advance while it goes on",
        remedies=(relaunch("nothing that was seen keeps it there, so a fresh start may pass"),),
        more=more,
    )
