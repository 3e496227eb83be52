"""Repairs of a living job, each asked for again at the moment of the act: who it is, and whether things still stand so.

Nothing foreign is touched: every process is one of the job's, held by PID and start time. What a repair changes is told as a
change with its undo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.connection import shut_down
from unsloth_watch.act.continuation import continue_process
from unsloth_watch.act.guardian import read_start_ticks
from unsloth_watch.act.orphanlock import release
from unsloth_watch.act.pipe import Drain, relieve
from unsloth_watch.act.usable import make_usable
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.repair import Repair, Target


class Room(msgspec.Struct, frozen=True):
    """What a repair may use.

    Attributes:
        members: The job's processes.
        keep_dir: Directory for bytes that are kept, made where it is missing; None where no reader may be held still for them.
        quarantine_dir: Directory of the run for things that are moved aside.
        complain: Takes a sentence about what went wrong after the repair was made; called in a thread.
        drains: Gets what goes on after the act: pipes whose readers are held still.
    """

    members: tuple[ProcessRef, ...]
    keep_dir: str | None
    quarantine_dir: str
    complain: Callable[[str], None]
    drains: list[Drain] = []


class Performed(msgspec.Struct, frozen=True):
    """What came of a repair: changes in order, and what was not done and why."""

    changes: tuple[Change, ...]
    refused: tuple[str, ...] = ()


def perform(repair: Repair, room: Room) -> Performed:
    """Do a repair to each of its targets; one that is refused is named, and the others are still done.

    Raises:
        KeyError: Its id is unknown: a fault of this program's own.
    """
    act = _ACTS[repair.id]
    changes: list[Change] = []
    refused: list[str] = []
    for target in repair.targets:
        try:
            if target.process not in room.members or read_start_ticks(target.process.pid) != target.process.start_ticks:
                raise MendError(f"{target.name} stays: PID {target.process.pid} is no longer the process that it was")
            changes += act(target, room)
        except MendError as error:
            refused.append(str(error))
        except OSError as error:  # the machine said no in between; the next rung is the kill, and the report has the reason
            refused.append(f"{target.name} stays: {os.strerror(error.errno) if error.errno else error}")
    return Performed(tuple(changes), tuple(refused))


def _continue(target: Target, room: Room) -> Sequence[Change]:
    return (continue_process(target.process, target.name),)


def _relieve(target: Target, room: Room) -> Sequence[Change]:
    if target.writer is None or target.fd is None or target.writer not in room.members:
        raise MendError(f"{target.name} stays: its writer is no process of the job")
    keep_dir = room.keep_dir if target.is_drainable else None
    change, drain = relieve(target, {ref.pid for ref in room.members}, keep_dir, room.complain)
    if drain is not None:
        room.drains.append(drain)
    return (change,)


def _shut_down(target: Target, room: Room) -> Sequence[Change]:
    if target.fd is None:
        raise MendError(f"{target.name} stays: its descriptor is not known")
    return (shut_down(target.process, target.fd, target.name),)


def _make_usable(target: Target, room: Room) -> Sequence[Change]:
    return make_usable(target.name, target.process)


def _release(target: Target, room: Room) -> Sequence[Change]:
    return (release(target.name, room.quarantine_dir),)


_ACTS: dict[str, Callable[[Target, Room], Sequence[Change]]] = {
    "continue-process": _continue,
    "relieve-pipe": _relieve,
    "shut-down-connection": _shut_down,
    "make-directory": _make_usable,
    "release-lock-file": _release,
}
