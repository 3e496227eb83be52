"""The chain of blame of one case, and the plain parts of a diagnosis that are made from it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.model.verdict import State
from unsloth_watch.waits.chain import Chain, find_start, follow
from unsloth_watch.waits.graph import Graph
from unsloth_watch.waits.place import find_user_frame, is_library, own_frames
from unsloth_watch.waits.scene import Doubt, Key, Scene
from unsloth_watch.waits.trace import trace as reach
from unsloth_watch.waits.wakers import NOBODY, is_shared
from unsloth_watch.waits.want import Aim, Want, is_fork_of


class Trace(msgspec.Struct, frozen=True):
    """Who waits for whom in a case, and where it ends.

    Attributes:
        case: The case.
        graph: The graph.
        chain: From the job's main thread to the end.
    """

    case: Case
    graph: Graph
    chain: Chain

    @property
    def end(self) -> Key:
        """The thread where the waiting ends."""
        return self.chain.end

    @property
    def want(self) -> Want:
        """What that thread wants."""
        return self.graph.wants[self.end]

    @property
    def thread(self) -> ThreadEvidence:
        """That thread."""
        return self.graph.scene.threads[self.end]

    @property
    def process(self) -> ProcessEvidence:
        """Its process."""
        return self.graph.scene.processes[self.end[0]]

    @property
    def is_crossing(self) -> bool:
        """Whether the end is in another process than the start."""
        return self.chain.keys[0][0] != self.end[0]

    @property
    def is_forked(self) -> bool:
        """Whether the end's process was forked from its parent without an exec."""
        return is_fork_of(self.process, self.graph.parent_of(self.end[0]))

    @property
    def is_lasting(self) -> bool:
        """Whether the judge holds the job to be hung."""
        return self.case.verdict is not None and self.case.verdict.state is State.HUNG

    @property
    def is_proven(self) -> bool:
        """Whether the judge proved that nothing can go on."""
        return self.case.verdict is not None and self.case.verdict.is_proven

    def list_free(self) -> list[Key]:
        """Return the threads of the chain's processes that go on by the clock or run, and may do anything then.

        Known monitors are left out. Where the end waits for what another process may signal, the whole job counts.
        """
        pids = self.graph.scene.processes if is_shared(self.thread) else dict.fromkeys(key[0] for key in self.chain.keys)
        return [key for pid in pids for key in self.list_free_of(pid)]

    def list_free_of(self, pid: int) -> list[Key]:
        """Return those threads of one process."""
        return [
            key
            for key in self.graph.scene.threads_of(pid)
            if self.graph.wants[key].aim in (Aim.TIMED, Aim.RUNNING)
            and (self.graph.scene.threads[key].frames or self.graph.scene.processes[pid].python_version is None)
            and key != self.end
        ]

    def find_doubt(self) -> str | None:
        """Return who could still wake the command as far as this one capture shows, as the judge's proof asks; None for nobody."""
        # What is missing of the whole (the kernel's log) says nothing about wakers; of a process it does, and is asked there.
        whole = msgspec.structs.replace(self.case.evidence, missing=())
        reached = reach(Scene(whole, is_gpu_idle=False, is_strict=True))
        if isinstance(reached, Doubt):
            return reached.why
        return "threads that wake by the clock" if reached.clocked else None

    @property
    def has_only_own_end(self) -> bool:
        """Whether the end waits on a pipe or socket whose other end nobody else was seen to have."""
        return any(edge.waker is None and edge.why == NOBODY for edge in self.graph.edges[self.end])

    def weigh_silence(self) -> tuple[Status, float]:
        """Return how firmly it stands that nobody ends the wait at the end, and the confidence.

        Not seeing anybody is little: before the judge holds the job to be hung, one capture has to leave nobody at all.
        """
        if self.is_proven:
            return Status.ESTABLISHED, CONFIDENCE[Status.ESTABLISHED]
        if self.is_lasting:
            return Status.SUPPORTED, 0.8 if self.list_free() else 0.9
        if self.list_free() or self.find_doubt() is not None:
            return Status.HYPOTHESIS, CONFIDENCE[Status.HYPOTHESIS]
        return Status.SUPPORTED, 0.85


def trace(case: Case) -> Trace | None:
    """Return the chain of blame from the job's own main thread; None where no thread of the command was read.

    A dozen rules ask for it, and it takes 70 ms for 65 processes: it is kept with its case.
    """
    kept = case.__dict__
    if "trace" not in kept:
        kept["trace"] = _trace(case)
    found: Trace | None = kept["trace"]
    return found


def _trace(case: Case) -> Trace | None:
    root = case.root
    if root is None:
        return None
    graph = Graph(case.evidence)
    start = find_start(graph, root.ref.pid)
    return Trace(case, graph, follow(graph, start)) if start is not None else None


def make_culprit(found: Trace, key: Key, path: str | None = None, peer: str | None = None) -> Culprit:
    """Return a thread as a culprit, by its innermost frame of the user's code."""
    thread, want = found.graph.scene.threads[key], found.graph.wants[key]
    frame = str(want.frame) if want.frame is not None else None
    is_other = key[0] != found.chain.keys[0][0]
    return Culprit(
        kind="rank" if key[0] in found.graph.ranks else "process" if is_other and thread.is_main else "thread",
        pid=key[0],
        rank=found.graph.ranks.get(key[0]),
        thread=thread.name,
        frame=frame,
        path=path,
        peer=peer or (None if frame else " ".join(found.graph.scene.processes[key[0]].command or ())[:80] or None),
    )


def tell(found: Trace, key: Key) -> str:
    """Return ``PID 12 waits for the lock disk in save (train.py:27)``."""
    want = found.graph.wants[key]
    where = f" in {want.frame}" if want.frame is not None else ""
    return f"{found.graph.name(key)} {want.words if want.words else want.aim.value}{where}"


def state_chain(found: Trace) -> Iterator[Statement]:
    """Yield the chain as statements, one a step, each with its source."""
    for number, key in enumerate(found.chain.keys):
        yield Statement(tell(found, key), f"stack of PID {key[0]}")
        if number < len(found.chain.edges):
            edge = found.chain.edges[number]
            if edge.waker is not None:
                sure = "" if edge.is_sure else ", as one of several"
                thing = f"{edge.thing}: " if edge.thing else ""
                yield Statement(f"{thing}{found.graph.name(edge.waker)} {edge.why}{sure}", edge.source)
    if found.chain.closing is not None and found.chain.closing.waker is not None:
        closing = found.chain.closing
        thing = f"{closing.thing}: " if closing.thing else ""
        yield Statement(f"{thing}{found.graph.name(found.chain.cycle[0])} {closing.why}", closing.source)
    elif found.chain.end in found.graph.edges:
        for edge in found.graph.edges[found.chain.end]:
            if edge.waker is None:
                yield Statement(f"{edge.thing}: {edge.why}" if edge.thing else edge.why, edge.source)


def explain(
    found: Trace,
    cause: str,
    title: str,
    summary: str,
    status: Status,
    *,
    culprit: Culprit,
    refuted_by: str,
    remedies: tuple[Remedy, ...],
    confidence: float | None = None,
    more: tuple[Statement, ...] = (),
) -> Diagnosis:
    """Return a diagnosis that rests on the chain.

    Args:
        found: The trace.
        cause: Id of the catalogue.
        title: Headline.
        summary: One sentence.
        status: How firmly it stands.
        culprit: Where the waiting ends.
        refuted_by: What would show it to be wrong.
        remedies: Least invasive first.
        confidence: Probability; None for that of the status.
        more: Further statements, after the chain.
    """
    thread = next((one for key, one in found.graph.scene.threads.items() if key == _key_of(found, culprit)), found.thread)
    own = [frame for _, frame in own_frames(thread.frames)]
    user = find_user_frame(thread.frames)
    start = next((number for number, frame in enumerate(own) if user is not None and frame is user[1]), 0)
    frames = own[start:] if user is not None and not is_library(user[1].file) else own
    return Diagnosis(
        cause=cause,
        title=title,
        summary=summary,
        status=status,
        confidence=CONFIDENCE[status] if confidence is None else confidence,
        culprit=culprit,
        evidence=(*state_chain(found), *more),
        refuted_by=refuted_by,
        remedies=remedies,
        # The file's own name: its directory may be a temporary one.
        fingerprint=fingerprint(cause, Culprit(kind=culprit.kind, path=(culprit.path or "").rpartition("/")[2]), frames),
    )


def _key_of(found: Trace, culprit: Culprit) -> Key | None:
    return next(
        (
            key
            for key in reversed(found.chain.keys)
            if key[0] == culprit.pid and found.graph.scene.threads[key].name == culprit.thread
        ),
        None,
    )
