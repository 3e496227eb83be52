"""Examination of a process that somebody else started: watch it for some seconds, look at it once, change nothing."""

from __future__ import annotations

import enum
import os
import time

import msgspec

from unsloth_watch.capture.capture import survey
from unsloth_watch.capture.children import own_pids
from unsloth_watch.capture.look import looks
from unsloth_watch.capture.permission import suggest_access
from unsloth_watch.errors import CannotLookError
from unsloth_watch.judge.inquiry import is_gpu_idle
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.quiescence import LEAST_APART_S, Proof, prove
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look, Sample
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.sense.cards import open_cards
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.sense.stat import read_stat
from unsloth_watch.sense.tree import ProcessTree
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.activity import describe_activity
from unsloth_watch.supervise.findings import investigate
from unsloth_watch.supervise.floors import open_floors

INTERVAL_S = 0.25
_PASSING = frozenset(
    {"unknown", "lock-held-elsewhere", "network-stall", "filesystem-stall", "gpu-stall", "memory-thrash", "busy-loop", "poll-loop"}
)
"""Causes that a healthy job, too, has for some seconds: that they last cannot be seen in so short a time."""
_LOOKS = 4
"""Looks over the observation: enough to see whether a stack moves."""
_SURVEY_APART_S = LEAST_APART_S + 0.1
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
        doing: What it does, in one sentence: phase, who computes most, where.
        allow: What to do so that all of it may be read; None where permission is not what was missing.
    """

    answer: Answer
    why: str
    seconds: float
    verdict: Verdict
    evidence: Evidence
    diagnosis: Diagnosis
    doing: str = ""
    allow: str | None = None


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
    memory, verdict, is_outside, seen, samples = _observe(tree, root, seconds)
    if verdict is None or read_stat(pid) is None:
        raise CannotLookError(f"process {pid} ended while it was watched")
    # Of what is proven the rules may be as sure as the proof; else the job may be healthy.
    doubt = verdict if verdict.is_proven else None
    findings = investigate(tree.members(), root, doubt, seen, samples, with_locals=False, is_gentle=True)
    tree.close()
    answer, why = _answer(memory, verdict, seen, findings.diagnosis, is_outside=is_outside)
    doing = describe_activity(seen, samples, memory.phase)
    missing = [phrase for process in findings.evidence.processes for phrase in process.missing]
    allow = suggest_access() if any("permission" in phrase for phrase in missing) else None
    return Examination(answer, why, seconds, verdict, findings.evidence, findings.diagnosis, doing, allow)


def _observe(
    tree: ProcessTree, root: ProcessRef, seconds: float
) -> tuple[Memory, Verdict | None, bool, tuple[Look, ...], tuple[Sample, ...]]:
    """Sample and judge for so long; the third says whether nothing but somebody outside stands against a proof."""
    sampler = Sampler(tree, None, FileReader(), open_cards(open_floors(), INTERVAL_S), INTERVAL_S)
    # All windows then fit into the observation: a data meter asks for what the job should have moved in this time.
    rules = Rules(stall_s=4 * seconds, busy_s=40 * seconds)
    memory, verdict = Memory(), None
    seen: tuple[Look, ...] = ()
    surveys: list[Evidence] = []
    samples: list[Sample] = []
    is_outside = False
    looked = 0
    began = now = clock.monotonic()
    while now - began <= seconds:
        if not surveys or now - surveys[-1].at >= _SURVEY_APART_S:
            surveys.append(survey(tree.members(), root, at=now, clock=clock.monotonic))
        samples.append(sampler.sample(now, clock.wall()))
        memory, verdict = judge(memory, samples[-1], rules)
        if looked < _LOOKS and now - began >= looked * seconds / _LOOKS:
            looked += 1
            seen += looks([root, *(ref for ref in tree.members() if ref != root)][:_LOOKED_AT])
        time.sleep(max(0.0, INTERVAL_S - (clock.monotonic() - now)))
        now = clock.monotonic()
    sampler.close()
    if verdict is not None and memory.progress is None:
        found = prove(surveys, is_gpu_idle=all(is_gpu_idle(sample) for sample in samples))
        if isinstance(found, Proof):
            verdict = msgspec.structs.replace(
                verdict, state=State.HUNG, is_proven=True, proof=found.steps, reasons=(found.steps[-1], *verdict.reasons)
            )
        else:
            verdict = msgspec.structs.replace(verdict, doubt=found.why)
            is_outside = found.is_outside
    return memory, verdict, is_outside, seen, tuple(samples)


def _answer(  # noqa: PLR0911 - one return an answer reads best
    memory: Memory, verdict: Verdict, seen: tuple[Look, ...], diagnosis: Diagnosis, *, is_outside: bool
) -> tuple[Answer, str]:
    if memory.progress is not None:
        return Answer.PROGRESSING, f"it gets further: {memory.progress.detail}"
    if verdict.is_proven:
        return Answer.HUNG, f"proven: {diagnosis.summary if diagnosis.cause != 'unknown' else verdict.proof[-1]}"
    is_explained = diagnosis.status in (Status.ESTABLISHED, Status.SUPPORTED) and diagnosis.cause not in _PASSING
    is_computing = verdict.state in (State.PROGRESSING, State.COMPUTING) and memory.effort_at == memory.at
    if is_computing:
        stacks = {look.ref: {other.stack for other in seen if other.ref == look.ref} for look in seen}
        if any(len(places) > 1 for places in stacks.values()):
            return Answer.PROGRESSING, f"it computes, and its stacks move: {verdict.reasons[-1]}"
        if is_explained:
            return Answer.HUNG, diagnosis.summary
        return Answer.UNDECIDED, f"it computes in one place, and nothing else shows: {verdict.reasons[-1]}"
    if is_outside:
        # A worker waits for its parent's orders, a filter for its pipe: only that it lasts could tell, and that is not seen here.
        return (
            Answer.UNDECIDED,
            f"nothing moved while it was watched, and it may only be waiting for somebody else: {verdict.doubt}",
        )
    if is_explained:
        return Answer.HUNG, diagnosis.summary
    if diagnosis.cause != "unknown":
        guess = f"{diagnosis.cause}: {diagnosis.summary}"
        return Answer.UNDECIDED, f"nothing moved while it was watched; if that lasts, it may be {guess}"
    return Answer.UNDECIDED, "nothing moved while it was watched, and no known cause explains it; it may only be waiting"
