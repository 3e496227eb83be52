"""A run: the loop over its phases. Reads the world only through ``sense``, changes it only through ``act``."""

from __future__ import annotations

import os

from unsloth_watch.act.launch import Started
from unsloth_watch.act.relay import Relay
from unsloth_watch.act.terminate import Stage
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import EXIT_SUPERVISOR, EXIT_UNKILLABLE, WatchError
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.aftermath import follow_end, follow_shutdown
from unsloth_watch.supervise.attendance import ENDING_S, Attendance
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.control import ControlSocket, Request
from unsloth_watch.supervise.interrupts import Interrupts
from unsloth_watch.supervise.job import Ending, Job
from unsloth_watch.supervise.lastresort import follow_fault, take_steps
from unsloth_watch.supervise.launch import Launch
from unsloth_watch.supervise.phase import WATCHED, Phase, move
from unsloth_watch.supervise.poller import Poller
from unsloth_watch.supervise.relaunch import Relaunch
from unsloth_watch.supervise.response import Response
from unsloth_watch.supervise.shutdown import TICK_S, Shutdown
from unsloth_watch.supervise.voice import say_directly
from unsloth_watch.tell.records import CacheRecord
from unsloth_watch.tell.service import ServiceManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.tracecheck import TraceCheck
    from unsloth_watch.supervise.watch import Watch

_FIRST_TICK_S = 0.1
"""Seconds before an attempt's first sample: a command that ends sooner needs no judge, and the first says nothing anyway."""
_CLIENT_TICK_S = 1.0
"""Seconds between looks at the deadlines of who asks at the control socket."""
_RELAY_FINISH_S = 5.0
"""Longest time without any delivery before output for a reader that does not read is given up at the end."""
_MOST_FAULTS = 8
"""Different faults of the judge that are told."""


class Run:
    """Supervises one command from its first attempt to its outcome.

    Args:
        launch: The run whose first attempt has just been started.
        relay: Relays its output; None where the command writes to our own descriptors, or was not started by us.
        job: The job; None for the launch's own.

    Attributes:
        phase: What is being done.
        attempt: Number of the attempt, from 1.
        watch: Judges the attempt; None before its first sample.
        is_paused: Whether nobody is judged, because a person asked for that.
        shutdown: The last end by force, None before the first.
        exit_code: The run's exit status, once it is over.
    """

    def __init__(self, launch: Launch, relay: Relay | None, job: Job | None = None) -> None:
        self.settings: Settings = launch.settings
        self.launch = launch
        self.relay = relay
        self.job = job if job is not None else Job(launch)
        self.chronicle = Chronicle(
            launch.directory,
            launch.settings,
            launch.command,
            cwd=launch.cwd,
            environment=launch.environment,
            say=relay.say if relay is not None else say_directly,
            caches=[CacheRecord(one.cache, one.variable, one.path, one.why) for one in launch.isolation.choices],
        )
        self._faults: set[str] = set()
        self._end_faults = 0
        self.phase = Phase.RUNNING
        self.attempt = 1
        self.exit_code = EXIT_SUPERVISOR
        self.watch: Watch | None = None
        self.is_paused = False
        self.shutdown: Shutdown | None = None
        self.poller = Poller(launch.signals_fd)
        self.poller.take(launch.heartbeat.fileno(), launch.heartbeat.drain)  # also while nobody is judged or all are being ended
        self.interrupts = Interrupts(self)
        self.response = Response(self)
        self.relaunch = Relaunch(self)
        self.manager = ServiceManager(os.environ, os.getpid())
        self._attendance = Attendance(self.manager)
        self._control = ControlSocket(launch.directory.path, self.poller.registry, self._obey)
        self._trace_check: TraceCheck | None = None
        for trouble in (launch.isolation.trouble, launch.warning, self._control.trouble):
            if trouble is not None:
                self.chronicle.complain(trouble)
        self._begin_attempt()
        self.manager.ready(self.job.root.pid)

    # The loop -------------------------------------------------------------------------------------------------------------------

    def supervise(self) -> int:
        """Return the exit status of the run, when it is over."""
        while self.phase is not Phase.FINISHED:
            self.poller.sleep(self.job.guardian, self._find_due())
            self.interrupts.hear()
            ending = self.job.poll()
            now = clock.monotonic()
            self._attendance.attend(self, now)
            self._control.serve(now)
            try:
                self._follow(ending, now)
            except Exception as error:  # a fault of ours must not cost the command's own status, nor leave anybody: it is told
                self._end_faults += 1
                follow_fault(self, error, self._end_faults, now)
            try:
                if self.phase in WATCHED and self._is_tick_due(now):
                    self._tick(now)
                self.response.advance(now)
            except Exception as error:  # a fault of ours must not end the job: it is told, and the job is judged afresh
                self._judge_afresh(error)
        return self.exit_code

    def _follow(self, ending: Ending | None, now: float) -> None:
        """Go on with an attempt that has ended, is being ended, or is to begin."""
        if self.phase in WATCHED and ending is not None:
            follow_end(self, ending, now)
        elif self.phase is Phase.TERMINATING:
            self._advance_shutdown(now)
        elif self.phase is Phase.WAITING and (self.interrupts.is_ending or self.relaunch.is_due(now)):
            self._start_next()

    def enter(self, phase: Phase) -> None:
        """Go on with another phase.

        Raises:
            RuntimeError: No move leads there.
        """
        self.phase = move(self.phase, phase)

    def _find_due(self) -> float:
        """Return the next moment at which something is due, monotonic seconds."""
        due = self._next_tick
        if self.phase is Phase.TERMINATING:
            due = clock.monotonic() + TICK_S
        elif self.phase is Phase.WAITING:
            due = self.relaunch.next_look()
        if self.manager.beat_s is not None:
            due = min(due, clock.monotonic() + self.manager.beat_s)
        if self._control.is_busy:
            due = min(due, clock.monotonic() + _CLIENT_TICK_S)
        return due

    # Watching -------------------------------------------------------------------------------------------------------------------

    def _begin_attempt(self) -> None:
        self.watch = None
        self.response.begin_attempt()
        self.interrupts.begin_attempt()
        self._next_tick = clock.monotonic() + min(_FIRST_TICK_S, self.settings.interval)
        self.chronicle.attempt_started(self.attempt, self.job.root.pid, self.launch.changes)

    def _is_tick_due(self, now: float) -> bool:
        """Whether to look at the job now: it is time, a survey waits to be judged, or the last word before an act is due."""
        is_awaited = self.response.is_ready or (self.watch is not None and self.watch.has_survey)
        return now >= self._next_tick or (is_awaited and not self.is_paused)

    def _tick(self, now: float) -> None:
        """Take a sample, judge it, and act upon a change of mind."""
        if now >= self._next_tick:  # a survey that is judged in between does not put off the next sample
            self._next_tick += self.settings.interval
        self._next_tick = max(self._next_tick, now + self.settings.interval / 2)
        if self.watch is None:
            from unsloth_watch.supervise.watch import Watch  # noqa: PLC0415 - not for a command that has ended by now

            self.watch = Watch(
                self.job, self.relay, self.settings,
                heartbeat=self.launch.heartbeat, chronicle=self.chronicle, wake_fd=self.poller.wake_fd,
            )  # fmt: skip
        if self._trace_check is None:
            from unsloth_watch.supervise.tracecheck import TraceCheck  # noqa: PLC0415 - as the watch

            self._trace_check = TraceCheck(self.poller.wake_fd)
        self._trace_check.tell(self.chronicle)
        if not self.is_paused:
            self.response.heed(self.watch.tick(now), now)

    def _judge_afresh(self, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}; the job is judged afresh, and what was suspected is forgotten"
        if why not in self._faults and len(self._faults) < _MOST_FAULTS:
            self._faults.add(why)
            self.chronicle.event("sensor.degraded", sensor="judge", why=why)
        if self.phase in (Phase.CAPTURING, Phase.REPAIRING):
            self.response.forget()
            self.enter(Phase.RUNNING)
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.close()

    def pause(self) -> None:
        """Stop judging, for somebody who debugs the job: nothing is sampled, and nobody is ended for a hang."""
        if not self.is_paused:
            self.is_paused = True
            if self.phase in (Phase.CAPTURING, Phase.REPAIRING):
                self.response.abandon()
                self.enter(Phase.RUNNING)
            self.chronicle.event("watch.paused")

    def resume(self) -> None:
        """Judge again, afresh: what happened or did not happen meanwhile is no evidence."""
        if self.is_paused:
            self.is_paused = False
            if self.watch is not None:
                self.watch.close()
                self.watch = None
            self.chronicle.event("watch.resumed")

    def adopt(self, settings: Settings) -> None:
        """Go on with other settings."""
        self.settings = settings
        if self.watch is not None:
            self.watch.adopt(settings)

    def _obey(self, request: Request) -> dict[str, object]:
        from unsloth_watch.supervise.orders import obey  # noqa: PLC0415 - only where somebody asks

        return obey(self, request)

    # From one attempt to the next -----------------------------------------------------------------------------------------------

    def terminate(self, reason: str, now: float) -> None:
        """Begin to end the attempt by force.

        Args:
            reason: Why, in the words of the events.
            now: Monotonic seconds.
        """
        self.shutdown = Shutdown(self, reason, now)
        self.enter(Phase.TERMINATING)
        self._advance_shutdown(now)

    def _advance_shutdown(self, now: float) -> None:
        assert self.shutdown is not None
        stage = self.shutdown.advance(now)
        if stage is Stage.UNKILLABLE:
            self.finish("error", EXIT_UNKILLABLE)
        elif stage is Stage.DONE and (self.job.ending is not None or self.job.has_lost_guardian):
            follow_shutdown(self, self.shutdown.reason, now)

    def _start_next(self) -> None:
        if self.interrupts.is_ending:
            self.finish("interrupted", self.interrupts.exit_code)
            return
        self.attempt += 1
        if self.launch.streams.terminal is not None:
            self.launch.streams.terminal.close()
        try:
            self.job.start(self.attempt, self.relaunch.remedied)
        except (WatchError, OSError) as error:  # of the command, of its streams, or no descriptor is left: the records say so
            self.chronicle.complain(str(error))
            self.finish("error", error.exit_code if isinstance(error, WatchError) else EXIT_SUPERVISOR)
            return
        self.launch.streams.take_keys()
        if self.relay is not None:
            self.relay.attach(self.launch.streams.relayed)
        elif self.launch.streams.relayed:  # the attempt before was attached to, and had its own output
            self.relay = start_relay(self.launch)
            self.chronicle.speak_with(self.relay.say)
        self.launch.streams.hand_over()
        self.response.hand_over(self.attempt, self.job.root.pid)
        if self.watch is not None:
            self.watch.close()
        self.enter(Phase.RUNNING)
        self._begin_attempt()

    def finish(self, outcome: str, exit_code: int) -> None:
        """End the run: nobody of the job is left that is ours to end.

        Args:
            outcome: In the words of the summary.
            exit_code: The run's exit status.
        """
        self.exit_code = exit_code
        self.enter(Phase.FINISHED)
        take_steps(
            self,
            self.manager.stopping,
            lambda: self.manager.extend(ENDING_S),
            lambda: self.response.conclude(outcome, exit_code),
            lambda: self.watch.close() if self.watch is not None else None,
            self._finish_output,
            self.response.wait,
            lambda: self.chronicle.finish(outcome, exit_code),
            self._control.close,
            self.job.guardian.close,
            self.launch.remove_group,
            self.launch.heartbeat.close,
        )

    def _finish_output(self) -> None:
        if self.relay is None:
            return
        told = self.relay.snapshot().faults
        try:
            self.relay.finish(_RELAY_FINISH_S)
            if self.launch.streams.terminal is not None:
                self.launch.streams.terminal.close()
        finally:
            # The relay is gone; the last words go straight to stderr.
            self.chronicle.speak_with(say_directly)
        for fault in self.relay.snapshot().faults:
            if fault not in told:
                self.chronicle.complain(f"{fault}; {self.launch.directory.output} has what the command printed")


def begin(launch: Launch, started: Started) -> Run:
    """Take over a run whose first attempt has been started."""
    assert started.pid > 0
    launch.streams.take_keys()
    relay = start_relay(launch) if launch.streams.relayed else None
    launch.streams.hand_over()
    return Run(launch, relay)


def start_relay(launch: Launch) -> Relay:
    """Return the relay of a command that was just started."""
    relay = Relay.start(launch.streams.relayed, launch.directory.output, spill_folder=launch.directory.path)
    relay.set_raw(launch.streams.is_controlling)
    return relay
