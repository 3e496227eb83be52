"""``pipe-deadlock``: a process writes into a full pipe whose reader waits for it, or reads one that only itself could fill."""

from __future__ import annotations

import msgspec

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell, trace
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.waitremedies import mend_pipe
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.wait import Class
from unsloth_watch.waits.want import Aim


class PipeDeadlock:
    """A circle through several processes in which one writes into a pipe; or a read from a pipe that only the reader could fill.

    The circle is established by both ends of the pipe: the writer is blocked in the write, and the reader waits for the writer.
    """

    id = "pipe-deadlock"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the writer; None where nobody is blocked so."""
        found = trace(case)
        if found is None:
            return None
        writers = [key for key in found.chain.cycle if found.graph.scene.waits[key].is_write]
        if writers and len({key[0] for key in found.chain.cycle}) > 1:
            # Another thread of the reader's process may come and read, as long as the job is not held to be hung.
            is_settled = found.chain.is_sure and (found.is_lasting or not found.list_free())
            return _explain(found, writers[-1], Status.ESTABLISHED if is_settled else Status.SUPPORTED)
        keeper = _find_keeper(found)
        if keeper is not None:
            return _explain_keeper(found, *keeper)
        # Of ranks and of the dead their own rules say more.
        is_rank = any(found.graph.wants[key].aim is Aim.COLLECTIVE for key in found.chain.keys)
        has_body = any(process.state == "Z" and process.ppid == found.end[0] for process in case.processes)
        is_read = found.want.aim is Aim.CHANNEL and not found.chain.cycle and _is_pipe(found, found.end)
        return _explain_kept(found) if is_read and found.has_only_own_end and not is_rank and not has_body else None


def _explain(found: Trace, writer: Key, status: Status) -> Diagnosis:
    cycle = found.chain.cycle
    target = ", ".join(found.graph.scene.waits[writer].targets)
    reader = cycle[(cycle.index(writer) + 1) % len(cycle)]
    return explain(
        found,
        PipeDeadlock.id,
        "A pipe is full and its reader waits for the writer",
        f"{tell(found, writer)}: the pipe is full, and {tell(found, reader)} instead of reading it.",
        status,
        culprit=make_culprit(found, reader, path=target),
        refuted_by="the reader reads from that pipe, or the writer goes on",
        remedies=mend_pipe(found.graph.name(reader)),
    )


def _find_keeper(found: Trace) -> tuple[Key, int] | None:
    """Return the reader of a pipe whose writing end only a process has that was left behind by its parent, and that process.

    A tool that ends and leaves something in the background hands it its output: no end of file comes before that ends, too.
    """
    scene, keys = found.graph.scene, found.chain.keys
    if len(keys) > 1 and scene.waits[keys[-2]].kind is Class.CHANNEL and not scene.waits[keys[-2]].is_write:
        is_orphan = found.process.ppid not in {key[0] for key in keys} and found.want.aim in (Aim.TIMED, Aim.CHANNEL, Aim.OUTSIDE)
        return (keys[-2], found.end[0]) if is_orphan and _is_pipe(found, keys[-2]) else None
    if found.want.aim is Aim.CHANNEL and _is_pipe(found, found.end) and not scene.waits[found.end].is_write:
        targets = scene.waits[found.end].targets
        writers = [
            one.pid for one in found.case.evidence.outsiders if one.target in targets and one.mode in (None, 1, 2) and one.pid
        ]
        dead = [one for one in found.case.processes if one.state == "Z" and one.ppid == found.end[0]]
        return (found.end, writers[0]) if writers and dead else None
    return None


def _is_pipe(found: Trace, key: Key) -> bool:
    targets = found.graph.scene.waits[key].targets
    return bool(targets) and all(target.startswith("pipe:") for target in targets)


def _explain_keeper(found: Trace, reader: Key, keeper: int) -> Diagnosis:
    process = found.graph.scene.processes.get(keeper)
    command = " ".join((process.command if process is not None else None) or ())[:80]
    return explain(
        found,
        PipeDeadlock.id,
        "A pipe is kept open by a process that was left behind",
        f"{tell(found, reader)} until its end, but PID {keeper}{f' ({command})' if command else ''}, which its starter left "
        "behind, still has the writing end.",
        Status.SUPPORTED if found.is_lasting else Status.HYPOTHESIS,
        culprit=msgspec.structs.replace(make_culprit(found, reader), kind="process", pid=keeper, peer=command or None),
        refuted_by="that process writes into the pipe",
        remedies=mend_pipe(found.graph.name(reader)),
    )


def _explain_kept(found: Trace) -> Diagnosis:
    target = ", ".join(found.graph.scene.waits[found.end].targets)
    status, confidence = found.weigh_silence()
    is_write = found.graph.scene.waits[found.end].is_write
    end, what = ("reading", "no room") if is_write else ("writing", "neither data nor an end of file")
    return explain(
        found,
        PipeDeadlock.id,
        "A pipe has no reader but its writer" if is_write else "A pipe has no writer but its reader",
        f"{tell(found, found.end)}: nobody but itself has the {end} end open, so that {what} can come.",
        status,
        confidence=min(confidence, 0.85),
        culprit=make_culprit(found, found.end, path=target),
        refuted_by=f"another process has the {end} end open",
        remedies=mend_pipe(found.graph.name(found.end)),
    )
