"""The end of an attempt by force: SIGINT, SIGTERM and SIGKILL over the whole tree, each told, and who survived them."""

from __future__ import annotations

import signal

from unsloth_watch.act.terminate import Stage, Termination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run

HANG = "hang"
"""Why an attempt is ended that hangs: its end is no failure of the command's own."""
RESTART = "restart asked for"
"""Why an attempt is ended that a person wants started anew."""
TICK_S = 0.02
"""Seconds between looks at a tree that is being ended."""


class Shutdown:
    """One such end.

    Args:
        run: The run.
        reason: Why, in the words of the events.
        now: Monotonic seconds.

    Attributes:
        reason: As given.
    """

    def __init__(self, run: Run, reason: str, now: float) -> None:
        self.reason = reason
        self._run = run
        self._told_signals = 0
        self._has_told_group = False
        root, group = run.job.root, run.launch.group
        self._termination = Termination(
            self._list_members, (root.pid, root.start_ticks), run.settings.grace, now,
            kill_group=group.kill if group is not None else None,
        )  # fmt: skip

    def advance(self, now: float) -> Stage:
        """Do what is due, tell what was done, and say how far it is; never blocks.

        Args:
            now: Monotonic seconds.
        """
        termination, run = self._termination, self._run
        stage = termination.advance(now)
        if termination.has_killed_group and not self._has_told_group:
            self._has_told_group = True
            run.chronicle.event("attempt.terminating", reason=self.reason, signal="SIGKILL", how="cgroup.kill")
        for sent in termination.signals_sent[self._told_signals :]:
            name = signal.Signals(sent.signum).name
            run.chronicle.event("attempt.terminating", reason=self.reason, signal=name, pids=list(sent.pids))
            run.response.note(f"{name} to PID {', '.join(map(str, sent.pids[:8]))}{' …' if len(sent.pids) > 8 else ''}")
        self._told_signals = len(termination.signals_sent)
        if stage is Stage.UNKILLABLE:
            self._tell_survivors()
        return stage

    def hasten(self, now: float) -> None:
        """Go on to the next signal at once.

        Args:
            now: Monotonic seconds.
        """
        self._termination.hasten(now)

    def _list_members(self) -> list[tuple[int, int]]:
        return [(ref.pid, ref.start_ticks) for ref in self._run.job.members()]

    def _tell_survivors(self) -> None:
        left = self._termination.unkillable
        self._run.chronicle.event(
            "attempt.unkillable",
            pids=[one.pid for one in left],
            wait_channel={str(one.pid): one.wait_channel for one in left},
            paths={str(one.pid): one.path for one in left},
        )
        self._run.chronicle.attempt_finished(None, None, "unkillable")
        who = f"PID {', '.join(str(one.pid) for one in left)}" if left else "it cannot be seen who"
        self._run.response.note(f"{who} survived SIGKILL; nothing is started on top of it")
