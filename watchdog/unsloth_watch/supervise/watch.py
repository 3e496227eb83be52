"""Watching one attempt: samples, the judge, and looks at stacks; says what to think of the job, and acts upon nothing.

Imported at the first tick, not before: a command that ends at once needs none of it.
"""

from __future__ import annotations

from collections import deque

import msgspec

from unsloth_watch.act.relay import Relay
from unsloth_watch.config.settings import Settings
from unsloth_watch.judge.memory import Memory
from unsloth_watch.judge.patience import find_movement, renew
from unsloth_watch.judge.receipts import Thread, find_receivers
from unsloth_watch.judge.rules import Rules
from unsloth_watch.judge.verdict import UNREAD, is_unread, judge
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.receiver import Receiver
from unsloth_watch.model.sample import Look, OutputSample, Sample
from unsloth_watch.model.verdict import Progress, State, Verdict
from unsloth_watch.model.xid import describe_xid
from unsloth_watch.sense.cards import open_cards
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.gpu import INTERVAL_S as GPU_INTERVAL_S
from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.sense.output import OutputReader
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.allowance import Allowance
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.floors import open_floors
from unsloth_watch.supervise.job import Job
from unsloth_watch.supervise.worker import Task

_RECENT = 10
"""Samples kept for a diagnosis: rates over some seconds. Those of 20 processes take about 60 kB."""
_LOOK_PROCESSES = 4
"""Processes whose stacks a look takes: the command and the oldest of its tree, which is where hangs are read from."""
_OVERDUE_S = 30.0
"""Seconds from which a survey counts as held up: it has a deadline of its own, which a read of a wedged process can outlast."""
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
        self._renewed_at = 0.0
        self._job = job
        self._relay = relay
        self._heartbeat = heartbeat
        self._chronicle = chronicle
        self._wake_fd = wake_fd
        self._rules = Rules(stall_s=settings.stall_timeout, busy_s=settings.busy_timeout)
        self._interval = settings.interval
        self._output = OutputReader()
        self._faults: set[str] = set()
        self._floors = open_floors()
        self._recent: deque[Sample] = deque(maxlen=_RECENT)
        self._is_renewed = self._has_unread = False
        self._looking: Task[tuple[Look, ...]] | None = None
        self._surveying: Task[Evidence] | None = None
        self._receivers: dict[Thread, Receiver] = {}
        self._allowance = Allowance(clock.monotonic())
        self._survey_began = self._survey_began_cpu_s = self._survey_began_helpers_s = self._look_began = 0.0
        self._sampler = Sampler(
            job.tree,
            self._read_output if relay is not None else None,
            FileReader(),
            open_cards(self._floors, max(settings.interval, GPU_INTERVAL_S)),
            settings.interval,
        )

    def tick(self, now: float) -> Verdict:
        """Take a sample and judge it; tell what changed."""
        looks, surveys = self._collect_looks(), self._collect_surveys()
        for survey in surveys:
            self._receivers = find_receivers(survey, self._receivers)
        self._sampler.watch_receivers(tuple(self._receivers.values()))
        sample = self._sampler.sample(now, clock.wall(), looks, self._heartbeat.latest())
        sample = msgspec.structs.replace(sample, surveys=surveys, attempt=self._chronicle.attempt, is_renewed=self._is_renewed)
        self._is_renewed = False
        for sensor, why in self._sampler.take_degradations():
            self._chronicle.event("sensor.degraded", sensor=sensor, why=why)
        if self._floors.trouble is not None:
            self._tell_fault("gpu floors", self._floors.trouble)
        for index, uuid, number in self._sampler.take_xids():
            self._chronicle.event("gpu.fault", device=index, uuid=uuid, xid=number, meaning=describe_xid(number))
        if self._job.has_lost_guardian:
            self._tell_fault("guardian", "the guardian process is gone; the job goes on under the supervisor itself")
        if self._job.has_woken_guardian:
            self._tell_fault("guardian", "somebody had stopped the guardian process; it was continued")
        self._chronicle.sample(sample)
        self._recent.append(sample)
        before, phase = self.verdict, self.memory.phase
        self.memory, verdict = judge(self.memory, sample, self._rules)
        if not self._has_unread and UNREAD in verdict.degraded and before is not None and UNREAD in before.degraded:
            self._tell_unread(sample)
        self.verdict = verdict
        if self.memory.progress_at == self.memory.at:
            self._receivers = {}
        if self.memory.phase != phase:
            self._chronicle.event("phase.changed", phase=self.memory.phase, source="stack" if looks else "output")
        # A job in doubt is surveyed whatever it costs, and so is one of which something new was seen.
        is_urgent = verdict.state in _DOUBTFUL or not self.memory.inquiry.has_settled
        may_survey = (self._allowance.has_left(now) or is_urgent) and not self._allowance.is_resting(now)
        try:
            if verdict.wants_survey and self._surveying is None and may_survey:
                self._surveying = self._take_survey()
            if verdict.wants_look and self._looking is None:
                self._looking = self._take_looks(verdict.looks)
        except OSError as error:  # no descriptor is left to list the job by: the verdict does without it
            self._tell_fault("survey", f"the job could not be listed: {error.strerror or error}")
        self._tell_overdue(now)
        self._tell_doubt(verdict, now)
        return verdict

    def renew(self) -> None:
        """Count silence from now, as after a repair of the living job."""
        self.memory = renew(self.memory)
        self._is_renewed = True
        self._renewed_at = self.memory.progress_at
        self.verdict = self.suspected_at = None

    def find_movement(self) -> Progress | None:
        """Return the evidence that the job moved since it was repaired."""
        return find_movement(self.memory, self._renewed_at)

    @property
    def moved_at(self) -> float | None:
        """When the job was last seen to get further, monotonic seconds; None where it never was.

        The judge's own clock leaves out what could not be seen (a suspended machine), so that its times lie before ours.
        """
        progress = self.verdict.last_progress if self.verdict is not None else None
        return None if progress is None else progress.at + self.memory.lost_s

    @property
    def has_survey(self) -> bool:
        """Whether a survey waits to be judged: the next tick need not wait for its time."""
        return self._surveying is not None and self._surveying.is_done

    def recent_samples(self) -> tuple[Sample, ...]:
        """Return the newest samples, oldest first."""
        return tuple(self._recent)

    def adopt(self, settings: Settings) -> None:
        """Judge by other timeouts from the next tick on; what was seen stays seen."""
        self._rules = Rules(stall_s=settings.stall_timeout, busy_s=settings.busy_timeout)

    def close(self) -> None:
        """Give everything back."""
        self._sampler.close()

    @property
    def _silent_s(self) -> float:
        """Seconds in which the work did not move, whether or not anybody computed."""
        return (self.memory.at or 0.0) - self.memory.progress_at

    def _tell_doubt(self, verdict: Verdict, now: float) -> None:
        """Tell of a doubt, and of its end; who computes in silence for the stall timeout is doubted too, long before he is hung."""
        is_doubtful = verdict.state in _DOUBTFUL or self._silent_s >= self._rules.stall_s
        if is_doubtful and self.suspected_at is None:
            self.suspected_at = now
            self._chronicle.event("stall.suspected", quiet_s=round(verdict.quiet_s, 3), evidence=list(verdict.reasons))
        elif self.suspected_at is not None and not is_doubtful:
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

    def _tell_unread(self, sample: Sample) -> None:
        """Say once whose reads and writes cannot be seen, as the judge is more patient for it: a set-uid program's, mostly."""
        unread = next((one for one in sample.processes or () if is_unread(one)), None)
        if unread is not None:
            self._has_unread = True
            who = f"PID {unread.ref.pid} ({unread.comm})"
            why = f"the reads and writes of {who} cannot be seen, so that limits are twice as long; told once, for the first one"
            self._chronicle.event("sensor.degraded", sensor=UNREAD, why=why)

    def _tell_overdue(self, now: float) -> None:
        """Say that no proof can be had any more, or no stack, where a survey or a look is held up in the kernel for good."""
        if self._surveying is not None and now - self._survey_began > _OVERDUE_S:
            self._tell_fault("survey", f"not back after {_OVERDUE_S:.0f} s: until it is, the timeouts decide alone")
        if self._looking is not None and now - self._look_began > _OVERDUE_S + self._interval:  # a burst spreads over an interval
            self._tell_fault("stacks", f"not back after {_OVERDUE_S:.0f} s: until they are, no closed set of them shortens a limit")

    def _take_looks(self, count: int) -> Task[tuple[Look, ...]]:
        from unsloth_watch.capture.look import burst  # noqa: PLC0415 - py-spy's side is imported when it is first needed

        refs = [self._job.root, *(ref for ref in self._job.members() if ref != self._job.root)][:_LOOK_PROCESSES]
        self._look_began = clock.monotonic()
        return Task(lambda: burst(refs, count, self._interval / count), self._wake_fd)

    def _take_survey(self) -> Task[Evidence]:
        from unsloth_watch.capture.capture import survey  # noqa: PLC0415 - only for a job that rests

        members, root = self._job.members(), self._job.root
        self._survey_began, self._survey_began_cpu_s = clock.monotonic(), clock.cpu()
        self._survey_began_helpers_s = clock.helpers_cpu()
        # Whatever a job of our own got from outside came through us: we still hold it.
        is_sealed = not self._job.is_attached
        return Task(lambda: survey(members, root, at=clock.monotonic(), clock=clock.monotonic, is_sealed=is_sealed), self._wake_fd)

    def _collect_surveys(self) -> tuple[Evidence, ...]:
        if self._surveying is None or not self._surveying.is_done:
            return ()
        task, self._surveying = self._surveying, None
        used_s = clock.cpu() - self._survey_began_cpu_s
        self._allowance.take(used_s)
        try:
            found = task.result()
        except Exception as error:  # without a survey there is no proof, only patience; the reason is in the events
            self._tell_fault("survey", f"{type(error).__name__}: {error}")
            return ()
        if not found.is_complete:
            used_s += clock.helpers_cpu() - self._survey_began_helpers_s
            self._allowance.rest_after(used_s, self._rules.stall_s, clock.monotonic())
        return (found,)

    def _collect_looks(self) -> tuple[Look, ...]:
        if self._looking is None or not self._looking.is_done:
            return ()
        task, self._looking = self._looking, None
        try:
            return task.result()
        except Exception as error:  # a look is a courtesy: the verdict does without, and the reason is in the events
            self._tell_fault("stacks", f"{type(error).__name__}: {error}")
            return ()
