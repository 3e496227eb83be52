"""The job: the command that runs now, everybody below it, and how it ended."""

from __future__ import annotations

import os
import signal

from unsloth_watch.act.exits import Exited, decode_status, reap_orphans
from unsloth_watch.act.launch import Guardian, Started
from unsloth_watch.act.terminate import is_running
from unsloth_watch.capture.children import is_spawning, own_pids
from unsloth_watch.errors import LaunchError
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.tree import ProcessTree
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.launch import Launch


class Ending:
    """How an attempt ended.

    Attributes:
        exit_code: As a shell says it: 128+n for signal n; None if nobody could learn it.
        signal: The signal, or None.
    """

    def __init__(self, status: int | None) -> None:
        self.exit_code: int | None = None
        self.signal: int | None = None
        if status is not None:
            self.exit_code, self.signal = decode_status(status)

    @property
    def signal_name(self) -> str | None:
        """``SIGTERM`` and the like; ``SIGRTMIN+1`` for one of those between the first and the last real-time signal."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"SIGRTMIN{self.signal - signal.SIGRTMIN:+d}"


class Job:
    """The attempt that runs.

    Args:
        launch: Starts attempts.

    Attributes:
        root: Identity of the command itself.
        began: Monotonic seconds of its start.
        ending: How it ended, None while it runs.
        has_lost_guardian: True once the guardian was found dead; said once by the caller.
        has_woken_guardian: True once it was found stopped, and continued; said once by the caller.
        is_attached: Whether somebody else started it: it has no guardian, and outlives us.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self.is_attached = False
        self.ending: Ending | None = None
        self.has_lost_guardian = False
        self.has_woken_guardian = False
        self._adopt(launch.started)
        self.tree = self._grow_tree()

    @property
    def guardian(self) -> Guardian:
        """The process between us and the job."""
        return self._launch.guardian

    def start(self, attempt: int, remedied: dict[str, str | None]) -> None:
        """Start the next attempt.

        Raises:
            LaunchError: It could not be executed.
        """
        if self.guardian.is_lost:
            self._launch.guardian = Guardian.spawn()
            self.has_lost_guardian = False
            self.tree.close()
            self.tree = self._grow_tree()
        try:
            self._adopt(self._launch.start(attempt, remedied))
        except LaunchError:
            if not self.guardian.is_lost:
                raise
            # It was killed between our last look and this start: the command is not to blame.
            self._launch.guardian = Guardian.spawn()
            self._adopt(self._launch.start(attempt, remedied))

    def _adopt(self, started: Started | None) -> None:
        assert started is not None, "a job is made of a launch that started"
        self.root = ProcessRef(started.pid, started.start_ticks)
        self.began = clock.monotonic()
        self.ending = None

    def _grow_tree(self) -> ProcessTree:
        return ProcessTree((self.guardian.pid,), lambda: {self.guardian.pid, *own_pids()}, own_pid=os.getpid())

    def poll(self) -> Ending | None:
        """Learn whether the command has ended; never blocks."""
        exits: list[Exited] = self.guardian.exits()
        if self.guardian.is_lost or os.getpid() == 1:
            self.has_lost_guardian = self.guardian.is_lost
            if self.has_lost_guardian:
                self.guardian.is_alive()
            # A child of a capture that is being born has no number yet by which to leave it alone.
            if not is_spawning():
                exits += reap_orphans(own_pids())
        if self.guardian.wake():
            self.has_woken_guardian = True
        for exited in exits:
            if exited.pid == self.root.pid and self.ending is None:
                self.ending = Ending(exited.status)
        if self.ending is None and self.has_lost_guardian and not is_spawning() and self._is_root_gone():
            self.ending = Ending(None)
        return self.ending

    def _is_root_gone(self) -> bool:
        """Whether the command was reaped by a guardian that then died before it could tell us the status."""
        try:
            os.kill(self.root.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it has changed its user
            return False
        return False

    def members(self) -> tuple[ProcessRef, ...]:
        """Return everybody of the job, zombies included.

        Raises:
            OSError: They cannot be listed now: no descriptor is left, or /proc does not answer.
        """
        return self.tree.members()

    def known_members(self) -> tuple[ProcessRef, ...]:
        """Return who is known to belong to the job where they cannot be listed: the command at least."""
        return self.tree.known or (self.root,)

    def is_anyone_alive(self) -> bool:
        """Whether a process of the job still runs, or may, where they cannot be listed; zombies hold nothing."""
        try:
            return any(is_running(ref.pid, ref.start_ticks) for ref in self.members())
        except OSError:
            return True
