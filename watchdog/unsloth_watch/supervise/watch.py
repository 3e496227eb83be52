"""Watching one attempt: samples, the judge, and looks at stacks; says what to think of the job, and acts upon nothing.

Imported at the first tick, not before: a command that ends at once needs none of it.
"""

from __future__ import annotations

from unsloth_watch.act.relay import Relay
from unsloth_watch.config.settings import Settings
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import judge
from unsloth_watch.model.sample import Look, OutputSample
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.gpu import GpuReader
from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.sense.output import OutputReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.job import Job
from unsloth_watch.supervise.worker import Task

_LOOK_PROCESSES = 4
"""Processes whose stacks a look takes: the command and the oldest of its tree, which is where hangs are read from."""
_DOUBTFUL = (State.SUSPECTED, State.HUNG)


class Watch:
    """Judges one attempt; every attempt gets a fresh one, so that nothing of an earlier verdict is kept.

    Args:
        job: The attempt.
        relay: Where its output is seen; None where it is not relayed.
        settings: The run's settings.
        heartbeat: The command's own word.
        chronicle: Told of what is sensed and suspected.
        wake_fd: Written to when a look is there.

    Attributes:
        memory: What the judge remembers.
        verdict: Its last answer, None before the first.
        suspected_at: Since when the job is in doubt, monotonic seconds; None while it is not.
    """

    def __init__(
        self, job: Job, relay: Relay | None, settings: Settings, *, heartbeat: HeartbeatReader, chronicle: Chronicle, wake_fd: int
    ) -> None:
        self.memory = Memory()
        self.verdict: Verdict | None = None
        self.suspected_at: float | None = None
        self._job = job
        self._relay = relay
        self._heartbeat = heartbeat
        self._chronicle = chronicle
        self._wake_fd = wake_fd
        self._rules = Rules(stall_s=settings.stall_timeout, busy_s=settings.busy_timeout)
        self._output = OutputReader()
        self._faults: set[str] = set()
        self._looking: Task[tuple[Look, ...]] | None = None
        self._sampler = Sampler(
            job.tree,
            self._read_output if relay is not None else None,
            FileReader(),
            GpuReader(interval_s=settings.interval),
            settings.interval,
        )

    def tick(self, now: float) -> Verdict:
        """Take a sample and judge it; tell what changed."""
        looks = self._collect_looks()
        sample = self._sampler.sample(now, clock.wall(), looks, self._heartbeat.latest())
        for sensor, why in self._sampler.take_degradations():
            self._chronicle.event("sensor.degraded", sensor=sensor, why=why)
        if self._job.has_lost_guardian:
            self._tell_fault("guardian", "the guardian process is gone; the job goes on under the supervisor itself")
        self._chronicle.sample(sample)
        before, phase = self.verdict, self.memory.phase
        self.memory, verdict = judge(self.memory, sample, self._rules)
        self.verdict = verdict
        if self.memory.phase != phase:
            self._chronicle.event("phase.changed", phase=self.memory.phase, source="stack" if looks else "output")
        if verdict.wants_look and self._looking is None:
            self._looking = self._take_looks()
        self._tell_doubt(before, verdict, now)
        return verdict

    def close(self) -> None:
        """Give everything back."""
        self._sampler.close()

    def _tell_doubt(self, before: Verdict | None, verdict: Verdict, now: float) -> None:
        was_doubtful = before is not None and before.state in _DOUBTFUL
        if verdict.state in _DOUBTFUL and not was_doubtful:
            self.suspected_at = now
            self._chronicle.event("stall.suspected", quiet_s=round(verdict.quiet_s, 3), evidence=list(verdict.reasons))
        elif was_doubtful and verdict.state not in _DOUBTFUL:
            self.suspected_at = None
            progress = verdict.last_progress
            is_moving = verdict.state is State.PROGRESSING and progress is not None
            self._chronicle.event("stall.cleared", by=progress.detail if is_moving and progress else verdict.reasons[-1])

    def _read_output(self) -> OutputSample:
        assert self._relay is not None
        seen = self._relay.snapshot()
        for fault in seen.faults:
            self._tell_fault("output", fault)
        return self._output.feed(seen.fresh, seen.total_bytes, seen.skipped, seen.is_blocked)

    def _tell_fault(self, sensor: str, why: str) -> None:
        """Tell a fault once."""
        if why not in self._faults:
            self._faults.add(why)
            self._chronicle.event("sensor.degraded", sensor=sensor, why=why)

    def _take_looks(self) -> Task[tuple[Look, ...]]:
        from unsloth_watch.capture.look import looks  # noqa: PLC0415 - py-spy's side is imported when it is first needed

        refs = [self._job.root, *(ref for ref in self._job.members() if ref != self._job.root)][:_LOOK_PROCESSES]
        return Task(lambda: looks(refs), self._wake_fd)

    def _collect_looks(self) -> tuple[Look, ...]:
        if self._looking is None or not self._looking.is_done:
            return ()
        task, self._looking = self._looking, None
        try:
            return task.result()
        except Exception as error:  # a look is a courtesy: the verdict does without, and the reason is in the events
            self._tell_fault("stacks", f"{type(error).__name__}: {error}")
            return ()
