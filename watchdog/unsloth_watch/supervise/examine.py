"""Examination of a process that somebody else started: watch it for some seconds, look at it once, change nothing."""

from __future__ import annotations

import enum
import os
import time

import msgspec

from unsloth_watch.capture.deadline import own_pids
from unsloth_watch.capture.look import looks
from unsloth_watch.errors import CannotLookError
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.gpu import GpuReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.sense.stat import read_stat
from unsloth_watch.sense.tree import ProcessTree
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.incident import investigate

INTERVAL_S = 0.25
_LOOKS = 4
"""Looks over the observation: enough to see whether a stack moves."""
_LOOKED_AT = 4
"""Processes whose stacks are looked at: the root and the first of its tree."""


class Answer(str, enum.Enum):
    """What ``inspect`` says, with its exit status."""

    PROGRESSING = "progressing"
    HUNG = "hung"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        """Exit status of the contract."""
        return {Answer.PROGRESSING: 0, Answer.HUNG: 1, Answer.UNDECIDED: 2}[self]


class Examination(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        answer: In one word.
        why: In one sentence.
        seconds: How long it was watched.
        verdict: The judge's last word on the observation.
        evidence: The capture.
        diagnosis: Why, if it hangs.
    """

    answer: Answer
    why: str
    seconds: float
    verdict: Verdict
    evidence: Evidence
    diagnosis: Diagnosis


def examine(pid: int, seconds: float) -> Examination:
    """Watch a process and everything below it, and say what it is doing.

    Nothing is paused and nothing is changed: stacks are read without stopping the process.

    Args:
        pid: The process.
        seconds: How long to watch; at least 1.

    Raises:
        CannotLookError: There is no such process, it has ended, or it is a thread of the kernel.
    """
    stat = read_stat(pid)
    if stat is None:
        raise CannotLookError(f"there is no process {pid}; see ps -e for those that are")
    if stat.state in "ZX":
        raise CannotLookError(f"process {pid} has ended and waits for its parent {stat.ppid} to notice; inspect that one")
    if stat.ppid == 2 or pid == 2:
        raise CannotLookError(f"process {pid} is a thread of the kernel")
    root = ProcessRef(pid, stat.start_ticks)
    tree = ProcessTree((pid,), lambda: {os.getpid(), *own_pids()}, has_anchors=True)
    memory, verdict, seen = _observe(tree, root, seconds)
    if verdict is None or read_stat(pid) is None:
        raise CannotLookError(f"process {pid} ended while it was watched")
    findings = investigate(tree.members(), root, None, seen, with_locals=False, is_gentle=True)
    tree.close()
    answer, why = _answer(memory, verdict, seen, findings.diagnosis)
    return Examination(answer, why, seconds, verdict, findings.evidence, findings.diagnosis)


def _observe(tree: ProcessTree, root: ProcessRef, seconds: float) -> tuple[Memory, Verdict | None, tuple[Look, ...]]:
    """Sample and judge for so long."""
    sampler = Sampler(tree, None, FileReader(), GpuReader(interval_s=INTERVAL_S), INTERVAL_S)
    # All windows then fit into the observation: a data meter asks for what the job should have moved in this time.
    rules = Rules(stall_s=4 * seconds, busy_s=40 * seconds)
    memory, verdict = Memory(), None
    seen: tuple[Look, ...] = ()
    looked = 0
    began = now = clock.monotonic()
    while now - began <= seconds:
        memory, verdict = judge(memory, sampler.sample(now, clock.wall()), rules)
        if looked < _LOOKS and now - began >= looked * seconds / _LOOKS:
            looked += 1
            seen += looks([root, *(ref for ref in tree.members() if ref != root)][:_LOOKED_AT])
        time.sleep(max(0.0, INTERVAL_S - (clock.monotonic() - now)))
        now = clock.monotonic()
    sampler.close()
    return memory, verdict, seen


def _answer(memory: Memory, verdict: Verdict, seen: tuple[Look, ...], diagnosis: Diagnosis) -> tuple[Answer, str]:
    if memory.progress is not None:
        return Answer.PROGRESSING, f"it gets further: {memory.progress.detail}"
    is_explained = diagnosis.status in (Status.ESTABLISHED, Status.SUPPORTED) and diagnosis.cause != "unknown"
    is_computing = verdict.state in (State.PROGRESSING, State.COMPUTING) and memory.effort_at == memory.at
    if is_computing:
        stacks = {look.ref: {other.stack for other in seen if other.ref == look.ref} for look in seen}
        if any(len(places) > 1 for places in stacks.values()):
            return Answer.PROGRESSING, f"it computes, and its stacks move: {verdict.reasons[-1]}"
        if is_explained:
            return Answer.HUNG, diagnosis.summary
        return Answer.UNDECIDED, f"it computes in one place, and nothing else shows: {verdict.reasons[-1]}"
    if is_explained:
        return Answer.HUNG, diagnosis.summary
    return Answer.UNDECIDED, "nothing moved while it was watched, and no known cause explains it; it may only be waiting"
