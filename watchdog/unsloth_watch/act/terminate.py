"""Termination of a process tree: SIGINT, SIGTERM, SIGKILL, and proof that nobody is left, advanced on the loop's ticks."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.act.guardian import descendants, read_stat, read_whole, send_signal

__all__ = ["SignalSent", "Stage", "Termination", "Unkillable", "descendants"]

KILL_GRACE_LIMIT_S = 5.0
"""Most seconds between SIGTERM and SIGKILL: whoever has ignored two requests gains nothing by a third."""
ORPHAN_GRACE_S = 2.0
"""Seconds from the end of the root to SIGTERM: the others saw no SIGINT, so they do not know that they should end."""
UNKILLABLE_AFTER_S = 5.0
"""Seconds from SIGKILL until a living member is called unkillable; a driver frees 80 GB of GPU memory in 1 to 3."""

# Syscalls of x86-64 whose first argument is a descriptor, and that are seen in D state on a hung disk or driver.
_DESCRIPTOR_CALLS = frozenset((0, 1, 3, 5, 8, 16, 17, 18, 19, 20, 40, 72, 73, 74, 75, 77, 78, 91, 93, 217, 277, 285, 295, 296, 326))


class Stage(enum.Enum):
    """How far a termination has come; each stage follows from the one before; only DONE is gone back from."""

    INTERRUPT = "interrupt"
    """SIGINT was sent to the root's process group, as Ctrl-C would: handlers run, checkpoints are written."""
    TERMINATE = "terminate"
    """SIGTERM was sent to every member."""
    KILL = "kill"
    """SIGKILL is sent to every member, and on every tick to those who were born meanwhile."""
    UNKILLABLE = "unkillable"
    """Someone outlived SIGKILL; becomes DONE when they die after all."""
    DONE = "done"
    """Nobody is left."""


class Unkillable(msgspec.Struct, frozen=True):
    """A process that SIGKILL does not end.

    Attributes:
        pid: Its PID.
        start_ticks: Its start time in clock ticks since boot.
        state: State letter of the thread that holds it (D), or of the process; ``?`` where that cannot be read.
        wait_channel: Kernel function in which that thread waits; None when unreadable.
        path: File that it waits for; None when unknown.
        is_permitted: False when the kernel refused the signal: another user's process (set-uid).
    """

    pid: int
    start_ticks: int
    state: str
    wait_channel: str | None = None
    path: str | None = None
    is_permitted: bool = True


class SignalSent(msgspec.Struct, frozen=True):
    """One signal to some processes, for the event log.

    Attributes:
        at: Monotonic seconds, as given to ``advance``.
        signum: Signal number.
        pids: Who got it.
    """

    at: float
    signum: int
    pids: tuple[int, ...]


def is_running(pid: int, start_ticks: int) -> bool:
    """Whether a process still has a thread that is not dead; a zombie awaiting its parent is not running.

    Args:
        pid: The process.
        start_ticks: Its start time in clock ticks since boot.
    """
    fields = read_stat(pid)
    if fields is None:
        return _is_taken(pid)
    if int(fields[19]) != start_ticks:
        return False
    # A main thread that ended by pthread_exit is a zombie too, while the others go on: field 20 counts the threads.
    return fields[0] not in (b"Z", b"X") or int(fields[17]) > 1


def _is_taken(pid: int) -> bool:
    """Whether anybody has a PID; asks the kernel without a descriptor, for want of which a living process cannot be read."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it has changed its user
        return True
    return True


def inspect_unkillable(pid: int, start_ticks: int, is_permitted: bool = True) -> Unkillable | None:
    """Say what a process that does not die waits for.

    Args:
        pid: The process.
        start_ticks: Its start time in clock ticks since boot.
        is_permitted: Whether the kernel let us signal it.

    Returns:
        What could be read, or None when it has died meanwhile.
    """
    fields = read_stat(pid)
    if not is_running(pid, start_ticks):
        return None
    if fields is None:
        return Unkillable(pid, start_ticks, "?", is_permitted=is_permitted)
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        threads = []
    for thread in threads:
        raw = read_whole(f"/proc/{pid}/task/{thread}/stat")
        if raw and raw[raw.rindex(b")") + 2 :].startswith(b"D"):
            base = f"/proc/{pid}/task/{thread}"
            channel = (read_whole(f"{base}/wchan") or b"").decode()
            return Unkillable(pid, start_ticks, "D", channel if channel not in ("", "0") else None, _read_path(base), is_permitted)
    return Unkillable(pid, start_ticks, fields[0].decode(), is_permitted=is_permitted)


def _read_path(base: str) -> str | None:
    """Read which file the system call of a thread is about; None where the call names none or may not be seen."""
    call = (read_whole(f"{base}/syscall") or b"").split()
    if len(call) < 2 or os.uname().machine != "x86_64" or not call[0].isdigit() or int(call[0]) not in _DESCRIPTOR_CALLS:
        return None
    try:
        return os.readlink(f"{base}/fd/{int(call[1], 16)}")
    except OSError:  # a dying process has no descriptors left
        return None


class Termination:
    """Ends a tree without ever blocking; call ``advance`` on every tick until it answers DONE, or give up on UNKILLABLE.

    Args:
        list_members: Gives PID and start time of everyone in the tree, zombies allowed, guardian and supervisor not. While it
            raises OSError, those of its last answer are ended, and nobody is believed gone.
        root: PID and start time of the command.
        grace_s: Seconds from SIGINT to SIGTERM; at most 5 of them again from SIGTERM to SIGKILL.
        now: Monotonic seconds.
        kill_group: Kills the job's control group in one go, and says whether anybody was in it; None where it has none.

    Attributes:
        has_killed_group: Whether the control group was killed.
        stage: How far it has come.
        alive: Members that were still running at the last ``advance``.
        unkillable: Who outlived SIGKILL, at stage UNKILLABLE.
        signals_sent: Every signal in order, repetitions left out.
    """

    def __init__(
        self,
        list_members: Callable[[], Sequence[tuple[int, int]]],
        root: tuple[int, int],
        grace_s: float,
        now: float,
        *,
        kill_group: Callable[[], bool] | None = None,
    ) -> None:
        self.stage = self._before_done = Stage.INTERRUPT
        self.alive: tuple[tuple[int, int], ...] = ()
        self.unkillable: tuple[Unkillable, ...] = ()
        self.signals_sent: list[SignalSent] = []
        self.has_killed_group = False
        self._kill_group = kill_group
        self._list_members = list_members
        self._root = root
        self._grace_s = grace_s
        self._deadline = now + grace_s
        self._reached: dict[int, set[tuple[int, int]]] = {}
        self._refused: set[tuple[int, int]] = set()
        self._has_lost_root = False
        self._listed: Sequence[tuple[int, int]] = (root,)
        self._is_sure = False

    def hasten(self, now: float) -> None:
        """Go to the next stage at the next ``advance``: a second Ctrl-C means SIGTERM, a third SIGKILL.

        Args:
            now: Monotonic seconds.
        """
        if self.stage in (Stage.INTERRUPT, Stage.TERMINATE):
            self._deadline = min(self._deadline, now)

    def advance(self, now: float) -> Stage:
        """Look who lives, send what is due, and say how far it is.

        Args:
            now: Monotonic seconds.

        Returns:
            The stage reached.
        """
        # An orphan on its way to the subreaper can be missed by one look, so nobody is believed gone before a second.
        self.alive = self._look() or self._look()
        if not self.alive and self._is_sure:
            self.unkillable = ()
            if self.stage is not Stage.DONE:
                self._before_done, self.stage = self.stage, Stage.DONE
            return self.stage
        if self.stage is Stage.DONE:  # somebody was overlooked: he gets all the time that the others had
            self.stage = self._before_done
        self._move_on(now)
        if self.stage is Stage.INTERRUPT:
            self._interrupt(now)
        elif self.stage is Stage.TERMINATE:
            self._send(signal.SIGTERM, self.alive, now)
        else:
            # First the group: whoever forks faster than a walk can see is in it.
            if self._kill_group is not None and self._kill_group():
                self.has_killed_group = True
            self._send(signal.SIGKILL, self.alive, now)
        if self.stage is Stage.UNKILLABLE:
            found = (inspect_unkillable(*member, member not in self._refused) for member in self.alive)
            self.unkillable = tuple(one for one in found if one is not None)
        return self.stage

    def _look(self) -> tuple[tuple[int, int], ...]:
        try:
            self._listed, self._is_sure = self._list_members(), True
        except OSError:  # no descriptor is left, or /proc does not answer: who was known may live, and so may others
            self._is_sure = False
        return tuple(member for member in self._listed if is_running(*member))

    def _move_on(self, now: float) -> None:
        """Leave a stage whose time is over; with a grace of 0 that is the way straight to SIGKILL."""
        is_lost = self._is_sure and self._root not in self.alive
        if self.stage is Stage.INTERRUPT and not self._has_lost_root and is_lost:
            self._has_lost_root = True
            self._deadline = min(self._deadline, now + ORPHAN_GRACE_S)
        if self.stage is Stage.INTERRUPT and now >= self._deadline:
            self.stage = Stage.TERMINATE
            self._deadline = now + min(self._grace_s, KILL_GRACE_LIMIT_S)
        if self.stage is Stage.TERMINATE and now >= self._deadline:
            self.stage = Stage.KILL
            self._deadline = now + UNKILLABLE_AFTER_S
        if self.stage is Stage.KILL and now >= self._deadline and signal.SIGKILL in self._reached:
            self.stage = Stage.UNKILLABLE

    def _interrupt(self, now: float) -> None:
        """Do once what Ctrl-C does: SIGINT to the whole group of the root, in one system call."""
        if signal.SIGINT in self._reached:
            return
        pid = self._root[0]
        group = tuple(member for member in self.alive if _group_of(member[0]) == pid)
        if group:  # the number is not reused while a member, known by identity, is in the group
            try:
                os.killpg(pid, signal.SIGINT)
            except (ProcessLookupError, PermissionError):
                pass
            self._note(signal.SIGINT, group, now)
            self._continue_stopped(group)
        else:  # attached, not launched: the root leads no group of its own
            self._send(signal.SIGINT, [member for member in self.alive if member == self._root], now)
        self._reached.setdefault(signal.SIGINT, set())

    def _send(self, signum: int, members: Sequence[tuple[int, int]], now: float) -> None:
        """Signal each member by identity, once, and wake the stopped ones so that they can obey; the newly born in later ticks."""
        reached = self._reached.setdefault(signum, set())
        sent = []
        for member in members:
            if member in reached:
                continue
            try:
                if send_signal(*member, signum):
                    sent.append(member)
            except PermissionError:
                self._refused.add(member)
        self._note(signum, sent, now)
        if signum != signal.SIGKILL:  # SIGKILL ends a stopped process as it is
            self._continue_stopped(sent)

    def _note(self, signum: int, members: Sequence[tuple[int, int]], now: float) -> None:
        if members:
            self._reached.setdefault(signum, set()).update(members)
            self.signals_sent.append(SignalSent(now, int(signum), tuple(pid for pid, _ in members)))

    def _continue_stopped(self, members: Sequence[tuple[int, int]]) -> None:
        for member in members:
            fields = read_stat(member[0])
            if fields and fields[0] == b"T":
                try:
                    send_signal(*member, signal.SIGCONT)
                except PermissionError:
                    self._refused.add(member)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
