"""A run: the loop, and what each verdict leads to. Reads the world only through ``sense``, changes it only through ``act``."""

from __future__ import annotations

import os
import select
import signal

from unsloth_watch.act.guardian import read_stat
from unsloth_watch.act.launch import Started
from unsloth_watch.act.relay import Relay
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import EXIT_GAVE_UP, EXIT_START_LIMIT, EXIT_SUPERVISOR, EXIT_UNKILLABLE, LaunchError
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.attendance import ENDING_S, Attendance
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.control import ControlSocket, Request
from unsloth_watch.supervise.job import Ending, Job
from unsloth_watch.supervise.launch import Launch
from unsloth_watch.supervise.phase import Phase, move
from unsloth_watch.supervise.restart import (
    UNCHANGED,
    Decision,
    History,
    count_repair,
    count_restart,
    decide_after_crash,
    decide_after_hang,
    may_repair,
    remember,
    remember_crash,
)
from unsloth_watch.supervise.signals import ENDING, forward, read_signals, suspend_self
from unsloth_watch.tell.directory import find_base
from unsloth_watch.tell.records import CacheRecord
from unsloth_watch.tell.service import ServiceManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.act.terminate import Termination
    from unsloth_watch.supervise.incident import Investigation
    from unsloth_watch.supervise.keyboard import Keyboard
    from unsloth_watch.supervise.mending import LiveRepair
    from unsloth_watch.supervise.release import ReleaseWait
    from unsloth_watch.supervise.tracecheck import TraceCheck
    from unsloth_watch.supervise.watch import Watch

_WATCHED = (Phase.RUNNING, Phase.CAPTURING, Phase.REPAIRING)
"""Phases in which the command runs and is judged."""
_CRASH_TAIL_BYTES = 16 * 1024
_TERMINATION_TICK_S = 0.02
"""Seconds between looks at a tree that is being ended."""
_RELEASE_TICK_S = 0.1
"""Seconds between looks whether the wait for GPU memory has come to its end; its own news comes sooner."""
_FIRST_TICK_S = 0.1
"""Seconds before an attempt's first sample: a command that ends sooner needs no judge, and the first says nothing anyway."""
_ORDERED = "restart asked for"
"""Why an attempt is ended that a person wants started anew."""
_RELAY_FINISH_S = 5.0
"""Longest time without any delivery before output for a reader that does not read is given up at the end."""


class Run:
    """Supervises one command from its first attempt to its outcome.

    Args:
        launch: The run whose first attempt has just been started.
        relay: Relays its output; None where the command writes to our own descriptors, or was not started by us.
        job: The job; None for the launch's own.
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
            say=relay.say if relay is not None else _say_directly,
            caches=[CacheRecord(one.cache, one.variable, one.path, one.why) for one in launch.isolation.choices],
        )
        if launch.isolation.trouble is not None:
            self.chronicle.complain(launch.isolation.trouble)
        if launch.warning is not None:
            self.chronicle.complain(launch.warning)
        self.phase = Phase.RUNNING
        self.attempt = 1
        self.exit_code = EXIT_SUPERVISOR
        self.history = History()
        self.remedied: dict[str, str | None] = {}
        self.interrupts: list[signal.Signals] = []
        self.termination: Termination | None = None
        self.investigation: Investigation | None = None
        self.past: list[Investigation] = []
        self.repair: LiveRepair | None = None
        self.restart_at = 0.0
        self.release: ReleaseWait | None = None
        self._poller = select.poll()
        self._poller.register(launch.signals_fd, select.POLLIN)
        self._wake_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        self._watched_guardian: int | None = None
        self._keyboard: Keyboard | None = None
        self.watch: Watch | None = None
        self._trace_check: TraceCheck | None = None
        self.is_paused = False
        self._next_tick = 0.0
        self.asked_for: Investigation | None = None
        self.manager = ServiceManager(os.environ, os.getpid())
        self._attendance = Attendance(self.manager)
        self._control = ControlSocket(launch.directory.path, self._poller, self._obey)
        if self._control.trouble is not None:
            self.chronicle.complain(self._control.trouble)
        self._begin_attempt()
        self.manager.ready(self.job.root.pid)

    # The loop -------------------------------------------------------------------------------------------------------------------

    def supervise(self) -> int:
        """Return the exit status of the run, when it is over."""
        while self.phase is not Phase.FINISHED:
            self._wait()
            for number in read_signals(self.launch.signals_fd):
                self._on_signal(number)
            self._read_keyboard()
            ending = self.job.poll()
            now = clock.monotonic()
            self._attendance.attend(self, now)
            self._control.serve(now)
            if self.phase in _WATCHED and ending is not None:
                self._on_ending(ending, now)
            elif self.phase is Phase.TERMINATING:
                self._advance_termination(now)
            elif self.phase is Phase.WAITING and (self.interrupts or (now >= self.restart_at and not self._is_releasing())):
                self._start_next()
            if self.phase in _WATCHED and self.watch is not None and self.watch.has_survey and not self.is_paused:
                self._next_tick = min(self._next_tick, now)
            if self.phase in _WATCHED and now >= self._next_tick:
                self._tick(now)
            if self.phase is Phase.CAPTURING:
                self._conclude_investigation(now)
            elif self.phase is Phase.REPAIRING:
                self._conclude_repair(now)
            self._conclude_asked_for()
        return self.exit_code

    def _wait(self) -> None:
        """Sleep until a signal, news of the guardian, the end of a task, or the next moment that something is due."""
        guardian_fd = self.job.guardian.fileno() if not self.job.guardian.is_lost else None
        if guardian_fd != self._watched_guardian:
            if self._watched_guardian is not None:
                self._poller.unregister(self._watched_guardian)
            if guardian_fd is not None:
                self._poller.register(guardian_fd, select.POLLIN)
            self._watched_guardian = guardian_fd
        due = self._next_tick
        if self.phase is Phase.TERMINATING:
            due = clock.monotonic() + _TERMINATION_TICK_S
        elif self.phase is Phase.WAITING:
            due = max(self.restart_at, clock.monotonic() + _RELEASE_TICK_S) if self.release is not None else self.restart_at
        if self.manager.beat_s is not None:
            due = min(due, clock.monotonic() + self.manager.beat_s)
        if self._control.is_busy:
            due = min(due, clock.monotonic() + 1.0)
        self._poller.poll(max(0.0, 1000 * (due - clock.monotonic())))

    # Watching -------------------------------------------------------------------------------------------------------------------

    def _begin_attempt(self) -> None:
        self.watch = None
        self.is_reported = False
        self.is_upshot = False
        self.is_suspended = False
        self._next_tick = clock.monotonic() + min(_FIRST_TICK_S, self.settings.interval)
        terminal = self.launch.streams.terminal
        self._keyboard = None
        if terminal is not None:
            from unsloth_watch.supervise.keyboard import Keyboard  # noqa: PLC0415 - only with a terminal

            self._keyboard = Keyboard(terminal)
            terminal.on_key = self._wake
        self.chronicle.attempt_started(self.attempt, self.job.root.pid, self.launch.changes)

    def _tick(self, now: float) -> None:
        """Take a sample, judge it, and act upon a change of mind."""
        if self.watch is None:
            from unsloth_watch.supervise.watch import Watch  # noqa: PLC0415 - not for a command that has ended by now

            self.watch = Watch(
                self.job, self.relay, self.settings,
                heartbeat=self.launch.heartbeat, chronicle=self.chronicle, wake_fd=self._wake_fd,
            )  # fmt: skip
        if self._trace_check is None:
            from unsloth_watch.supervise.tracecheck import TraceCheck  # noqa: PLC0415 - as the watch

            self._trace_check = TraceCheck(self._wake_fd)
        self._trace_check.tell(self.chronicle)
        self._next_tick = max(self._next_tick + self.settings.interval, now + self.settings.interval / 2)
        if self.is_paused:
            return
        verdict = self.watch.tick(now)
        is_hung = verdict.state.value == "hung" and not self._is_held_by_user()
        if self.phase is Phase.REPAIRING:
            self._judge_repair(is_hung=is_hung, now=now)
        elif is_hung and self.phase is Phase.RUNNING and not self.is_reported:
            from unsloth_watch.supervise.incident import Investigation  # noqa: PLC0415 - only for a hang

            self.phase = move(self.phase, Phase.CAPTURING)
            self.investigation = Investigation(self, self.watch, verdict, now, self._wake_fd)
        elif not is_hung:
            if self.phase is Phase.CAPTURING:
                # It moved while the evidence was taken, or a sense was lost and the judge became more patient: no longer a verdict
                # to act upon. The task ends by itself.
                self.investigation = None
                self.phase = move(self.phase, Phase.RUNNING)
            if self.watch.suspected_at is None:
                self.is_reported = False

    # A hang ---------------------------------------------------------------------------------------------------------------------

    def _conclude_investigation(self, now: float) -> None:
        """Act upon the evidence when it is complete, and upon nothing before."""
        investigation = self.investigation
        if investigation is None or not investigation.is_done:
            return
        investigation.announce()
        investigation.write()
        if self.settings.on_hang == "report":
            self.is_reported = True
            investigation.note("watched on: --on-hang report")
            self.past.append(investigation)
            self.investigation = None
            self.phase = move(self.phase, Phase.RUNNING)
            return
        if not self._begin_repair(investigation):
            self._terminate("hang", now)

    def _is_held_by_user(self) -> bool:
        """Whether the command is stopped by the user's own Ctrl-Z: then it hangs as little as the user."""
        fields = read_stat(self.job.root.pid) if self.is_suspended else None
        return fields is not None and fields[0] == b"T"

    # A repair of the living job -------------------------------------------------------------------------------------------------

    def _begin_repair(self, investigation: Investigation) -> bool:
        """Begin the live repair that the evidence allows; return whether there is one."""
        repair, fingerprint = investigation.repair, investigation.diagnosis.fingerprint
        if repair is None or not self.settings.live_repair or not may_repair(self.history, fingerprint, repair.id):
            return False
        from unsloth_watch.supervise.mending import LiveRepair  # noqa: PLC0415 - only for a hang

        self.history = count_repair(self.history, fingerprint)
        self.repair = LiveRepair(self, investigation, repair, self._wake_fd)
        self.phase = move(self.phase, Phase.REPAIRING)
        return True

    def _conclude_repair(self, now: float) -> None:
        """When the repair was made, count silence from there; where nothing could be done, go on to the kill."""
        repair, watch = self.repair, self.watch
        if repair is None or watch is None or repair.is_told or not repair.is_done:
            return
        if repair.tell():
            watch.renew()
        else:
            self._give_repair_up(now)

    def _judge_repair(self, *, is_hung: bool, now: float) -> None:
        """Hear the judge about a repaired job: it moved, or it hangs as before."""
        repair, watch = self.repair, self.watch
        if repair is None or watch is None or not repair.is_told:
            return
        progress = watch.find_movement()
        if progress is not None:
            self._tell_repaired(progress.detail)
        elif repair.is_holding(self.settings.stall_timeout):
            watch.renew()
        elif is_hung and watch.memory.progress is not None:
            # Its echo was heard: that wait has ended, and what came next (a retry, mostly) waits again. It is looked at anew.
            repair.fail("that wait ended by it, and the program came to hang again")
            self._put_by()
        elif is_hung:
            repair.fail("the work did not move by it")
            self._give_repair_up(now)

    def _tell_repaired(self, progress: str) -> None:
        assert self.repair is not None
        self.repair.succeed(progress)
        self._put_by()

    def _put_by(self) -> None:
        """Lay the incident by and watch on."""
        investigation = self.investigation
        assert investigation is not None
        investigation.write()
        self.past.append(investigation)
        self.repair = self.investigation = None
        self.phase = move(self.phase, Phase.RUNNING)

    def _give_repair_up(self, now: float) -> None:
        repair, investigation = self.repair, self.investigation
        assert repair is not None
        assert investigation is not None
        self.history = remember(self.history, investigation.diagnosis.fingerprint, repair.id)
        self.repair = None
        self._terminate("hang", now)

    # An end by force ------------------------------------------------------------------------------------------------------------

    def _terminate(self, reason: str, now: float) -> None:
        from unsloth_watch.act.terminate import Termination  # noqa: PLC0415 - only where somebody is left to end

        self.phase = move(self.phase, Phase.TERMINATING)
        self._reason = reason
        self._told_signals = 0
        self._has_told_group = False
        self.termination = Termination(
            self._list_members, (self.job.root.pid, self.job.root.start_ticks), self.settings.grace, now,
            kill_group=self.launch.group.kill if self.launch.group is not None else None,
        )  # fmt: skip
        self._advance_termination(now)

    def _list_members(self) -> list[tuple[int, int]]:
        return [(ref.pid, ref.start_ticks) for ref in self.job.members()]

    def _advance_termination(self, now: float) -> None:
        termination = self.termination
        assert termination is not None
        stage = termination.advance(now)
        if termination.has_killed_group and not self._has_told_group:
            self._has_told_group = True
            self.chronicle.event("attempt.terminating", reason=self._reason, signal="SIGKILL", how="cgroup.kill")
        for sent in termination.signals_sent[self._told_signals :]:
            name = signal.Signals(sent.signum).name
            self.chronicle.event("attempt.terminating", reason=self._reason, signal=name, pids=list(sent.pids))
            if self.investigation is not None:
                self.investigation.note(f"{name} to PID {', '.join(map(str, sent.pids[:8]))}{' …' if len(sent.pids) > 8 else ''}")
        self._told_signals = len(termination.signals_sent)
        if stage.value == "unkillable":
            self._on_unkillable(termination)
        elif stage.value == "done" and (self.job.ending is not None or self.job.has_lost_guardian):
            self._on_terminated(now)

    def _on_unkillable(self, termination: Termination) -> None:
        left = termination.unkillable
        self.chronicle.event(
            "attempt.unkillable",
            pids=[one.pid for one in left],
            wait_channel={str(one.pid): one.wait_channel for one in left},
            paths={str(one.pid): one.path for one in left},
        )
        self.chronicle.attempt_finished(None, None, "unkillable")
        if self.investigation is not None:
            self.investigation.note(
                f"PID {', '.join(str(one.pid) for one in left)} survived SIGKILL; nothing is started on top of it"
            )
        self._finish("error", EXIT_UNKILLABLE)

    def _on_terminated(self, now: float) -> None:
        ending = self.job.ending or Ending(None)
        if self._reason == _ORDERED:
            self._start_by_order(ending, now)
            return
        if self._reason != "hang":
            self._settle(ending)
            return
        assert self.investigation is not None
        self.investigation.note(f"all of the job was dead {now - self.investigation.decided_at:.1f} s after the verdict")
        self._go_on_after_hang(ending, now)

    def _go_on_after_hang(self, ending: Ending, now: float) -> None:
        investigation = self.investigation
        assert investigation is not None
        self.chronicle.attempt_finished(ending.exit_code, ending.signal_name, "hang")
        self.history = remember_crash(self.history, None)
        if self.past and self.past[-1].is_mended:
            # The attempt that ran with the remedy hung as well: by the same hang, or by one that lay behind it.
            is_same = self.past[-1].diagnosis.fingerprint == investigation.diagnosis.fingerprint
            came = "hung in the same way" if is_same else "got past it, and hung elsewhere"
            self.past[-1].conclude(f"attempt {self.attempt} {came}", worked=not is_same)
        if self.interrupts:
            self._finish("interrupted", 128 + self.interrupts[0])
        elif self.settings.on_hang == "stop":
            self._refuse("--on-hang stop", "hung", EXIT_GAVE_UP)
        elif "hang" not in self.settings.restart_on:
            self._refuse(f"--restart-on {','.join(self.settings.restart_on)}", "hung", EXIT_GAVE_UP)
        else:
            self._relaunch_mended(investigation, now)

    # What comes next --------------------------------------------------------------------------------------------------------------

    def _relaunch_mended(self, investigation: Investigation, now: float) -> None:
        """Apply the next remedy that can be applied, and schedule an attempt with it; or end the run."""
        diagnosis = investigation.diagnosis
        while True:
            decision = decide_after_hang(self.history, diagnosis, max_restarts=self.settings.max_restarts, chance=draw_chance)
            if not decision.is_restart:
                self._refuse(decision.why, "hung", EXIT_GAVE_UP)
                return
            remedy = decision.remedy
            self.history = remember(self.history, diagnosis.fingerprint, remedy.id if remedy is not None else UNCHANGED)
            if remedy is None:
                investigation.relaunch_unchanged(self.attempt + 1, decision.why)
                break
            is_applied, changes = investigation.mend(remedy, self.attempt + 1)
            self.remedied.update(changes)
            if is_applied:
                break
        self._schedule(decision, now)

    def _schedule(self, decision: Decision, now: float) -> None:
        self.history = count_restart(self.history, ran_s=now - self.job.began)
        self.chronicle.event("restart.scheduled", delay_s=decision.delay_s, why=decision.why)
        self.restart_at = now + decision.delay_s
        if self.watch is not None:
            from unsloth_watch.supervise.release import begin_release  # noqa: PLC0415 - only before another attempt

            self.release = begin_release(self.watch.recent_samples(), self._wake_fd)
        self.phase = move(self.phase, Phase.WAITING)

    def _is_releasing(self) -> bool:
        """Whether GPU memory of the ended attempt is still waited for; tells what became of it when not."""
        if self.release is None:
            return False
        if not self.release.is_done:
            return True
        found, self.release = self.release.result(), None
        devices = list(found.devices) if found.why is None else [found.why]
        self.chronicle.event("gpu.released", is_free=found.is_free, seconds=round(found.seconds, 3), devices=devices)
        if self.investigation is not None:
            state = "free" if found.is_free else "not seen to be free"
            self.investigation.note(f"GPU memory was {state} {found.seconds:.1f} s after the last process: {'; '.join(devices)}")
        return False

    def _refuse(self, why: str, outcome: str, exit_code: int) -> None:
        self.chronicle.event("restart.refused", why=why)
        if self.investigation is not None:
            self.investigation.note(f"not started again: {why}")
        self._finish(outcome, exit_code)

    def next_environment(self) -> dict[str, str]:
        """Return the user's environment with the places of the caches and what remedies have changed so far."""
        environment = {**self.launch.environment, **self.launch.isolation.variables}
        for name, value in self.remedied.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return environment

    def private_directory(self) -> str:
        """Return the directory for caches of this project alone: outlives the run, so that the next one finds them warm."""
        state = os.path.dirname(find_base(self.launch.environment))
        from hashlib import sha256  # noqa: PLC0415 - only after a hang

        project = sha256(os.fsencode(self.launch.cwd)).hexdigest()[:12]
        return os.path.join(state, "caches", project)

    def _start_next(self) -> None:
        if self.interrupts:
            self._finish("interrupted", 128 + self.interrupts[0])
            return
        self.attempt += 1
        if self.launch.streams.terminal is not None:
            self.launch.streams.terminal.close()
        try:
            self.job.start(self.attempt, self.remedied)
        except LaunchError as error:
            self.chronicle.complain(str(error))
            self._finish("error", error.exit_code)
            return
        if self.relay is not None:
            self.relay.attach(self.launch.streams.relayed)
        elif self.launch.streams.relayed:  # the attempt before was attached to, and had its own output
            self.relay = start_relay(self.launch)
            self.chronicle.speak_with(self.relay.say)
        self.launch.streams.hand_over()
        if self.investigation is not None:
            self.investigation.note(f"attempt {self.attempt} started as PID {self.job.root.pid}")
            self.investigation.write()
            self.past.append(self.investigation)
            self.investigation = None
        if self.watch is not None:
            self.watch.close()
        self.phase = move(self.phase, Phase.RUNNING)
        self._begin_attempt()

    def _on_ending(self, ending: Ending, now: float) -> None:
        """Handle the command's own end; whoever it left behind ends with it, as under systemd."""
        if self.phase is Phase.REPAIRING:
            self._settle_repair(ending)
        elif self.investigation is not None:
            self.investigation = None
        if not self.job.is_attached and any(ref != self.job.root for ref in self.job.members()):
            self._terminate("left behind by the command", now)
        else:
            self._settle(ending)

    def _settle_repair(self, ending: Ending) -> None:
        """Say what the command's own end means for the repair that was made in it."""
        repair = self.repair
        assert repair is not None
        repair.wait()
        if not repair.is_told and not repair.tell():
            repair.fail("the command ended before anything was changed")
        elif ending.exit_code == 0:
            self._tell_repaired("the command went on to its end, with status 0")
            return
        else:
            # A read that was cut off raises where nobody retries: the hang's next remedy is due, not a crash's.
            repair.fail(f"the command went on and ended with status {ending.exit_code}")
            assert self.investigation is not None
            self.history = remember(self.history, self.investigation.diagnosis.fingerprint, repair.id)
            self.is_upshot = True
        self.repair = None

    def _settle(self, ending: Ending) -> None:
        """Decide what the command's own end means."""
        # The status of a job that is not our child is its parent's to know, where the kernel does not tell it.
        unknown = 0 if self.job.is_attached else EXIT_SUPERVISOR
        code = ending.exit_code if ending.exit_code is not None else unknown
        if self._keyboard is not None and self._keyboard.is_asked(clock.monotonic()):
            self.interrupts.append(signal.SIGINT)
        if self.is_upshot and not self.interrupts:
            self._go_on_after_hang(ending, clock.monotonic())
            return
        reason = "interrupted" if self.interrupts else None
        self.chronicle.attempt_finished(ending.exit_code, ending.signal_name, reason)
        if code != 0 and not self.interrupts and "crash" in self.settings.restart_on:
            self._go_on_after_crash(code, ending.signal)
            return
        self._finish("interrupted" if self.interrupts else "completed" if code == 0 else "failed", code)

    def _go_on_after_crash(self, code: int, signum: int | None) -> None:
        from unsloth_watch.supervise.crash import classify  # noqa: PLC0415 - only after a crash

        tail = self.relay.tail(_CRASH_TAIL_BYTES).decode("utf-8", "replace") if self.relay is not None else ""
        crash = classify(code, signum, tail)
        decision = decide_after_crash(self.history, crash, max_restarts=self.settings.max_restarts, chance=draw_chance)
        self.history = remember_crash(self.history, crash.signature)
        if decision.is_restart:
            self._schedule(decision, clock.monotonic())
        else:
            self._refuse(decision.why, "failed", EXIT_START_LIMIT if decision.is_limit else code)

    def _finish(self, outcome: str, exit_code: int) -> None:
        self.exit_code = exit_code
        self.phase = move(self.phase, Phase.FINISHED)
        self.manager.stopping()
        self.manager.extend(ENDING_S)
        if self.investigation is not None:
            self.investigation.write()
            self.past.append(self.investigation)
        elif self.past and self.past[-1].is_mended:
            ended = {"completed": "completed", "failed": f"ended with status {exit_code}"}.get(outcome, f"was {outcome}")
            self.past[-1].conclude(f"attempt {self.attempt} ran with it and {ended}", worked=outcome == "completed" or None)
        if self.watch is not None:
            self.watch.close()
        if self.relay is not None:
            self.relay.finish(_RELAY_FINISH_S)
            if self.launch.streams.terminal is not None:
                self.launch.streams.terminal.close()
            # The relay is gone; the last words go straight to stderr.
            self.chronicle.speak_with(_say_directly)
        for investigation in self.past:
            investigation.wait()
        self.chronicle.finish(outcome, exit_code)
        self._control.close()
        self.job.guardian.close()
        self.launch.remove_group()
        self.launch.heartbeat.close()

    # Orders -----------------------------------------------------------------------------------------------------------------------

    def _obey(self, request: Request) -> dict[str, object]:
        from unsloth_watch.supervise.orders import obey  # noqa: PLC0415 - only where somebody asks

        return obey(self, request)

    def receive(self, number: signal.Signals) -> None:
        """Do what a signal to us would do."""
        self._on_signal(number)

    def end_by_order(self, now: float) -> None:
        """End the job and the run: SIGINT, SIGTERM and SIGKILL with the grace period between them."""
        self.interrupts.append(signal.SIGTERM)
        if self.phase in _WATCHED:
            self.investigation = self.repair = None
            self._terminate("stop asked for", now)

    def restart_by_order(self, now: float) -> None:
        """End the attempt that runs, and start the next at once; no remedy is applied and no limit counts it."""
        self.investigation = None
        self._terminate(_ORDERED, now)

    def _start_by_order(self, ending: Ending, now: float) -> None:
        self.chronicle.attempt_finished(ending.exit_code, ending.signal_name, _ORDERED)
        if self.interrupts:
            self._finish("interrupted", 128 + self.interrupts[0])
            return
        self.chronicle.event("restart.scheduled", delay_s=0.0, why=_ORDERED)
        self.restart_at = now
        self.phase = move(self.phase, Phase.WAITING)

    def capture_by_order(self, now: float) -> int:
        """Take evidence beside the loop, without pausing or ending anybody; return the number of the incident that will hold it."""
        from unsloth_watch.supervise.incident import Investigation  # noqa: PLC0415 - only for evidence

        assert self.watch is not None
        assert self.watch.verdict is not None
        self.asked_for = Investigation(self, self.watch, self.watch.verdict, now, self._wake_fd, is_asked_for=True)
        return self.asked_for.number

    def _conclude_asked_for(self) -> None:
        """Write down the evidence that was asked for, once it is there."""
        if self.asked_for is not None and self.asked_for.is_done:
            done, self.asked_for = self.asked_for, None
            done.announce()
            done.write()
            self.past.append(done)

    def pause(self) -> None:
        """Stop judging, for somebody who debugs the job: nothing is sampled, and nobody is ended for a hang."""
        if not self.is_paused:
            self.is_paused = True
            if self.phase in (Phase.CAPTURING, Phase.REPAIRING):
                self.investigation = self.repair = None
                self.phase = move(self.phase, Phase.RUNNING)
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

    # Signals ----------------------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            os.write(self._wake_fd, b"\0")
        except OSError:  # full of wake-ups already
            pass

    def _read_keyboard(self) -> None:
        """Hear what a user at the terminal wants; the command itself has heard it from its own terminal."""
        keyboard, terminal, now = self._keyboard, self.launch.streams.terminal, clock.monotonic()
        if keyboard is None or terminal is None:
            return
        if keyboard.take_suspend():
            terminal.suspend(self.job.root.pid)
        from unsloth_watch.supervise.keyboard import KILL_AT, TERMINATE_AT  # noqa: PLC0415

        presses = keyboard.take(now)
        if presses >= KILL_AT or (presses >= TERMINATE_AT and self.phase in _WATCHED):
            self._press_for_end(now)
        if presses and self.phase is Phase.WAITING:
            self.interrupts.append(signal.SIGINT)

    def _press_for_end(self, now: float) -> None:
        """End the tree sooner than the grace period would: it has been asked before."""
        if self.phase in _WATCHED:
            self.interrupts.append(signal.SIGINT)
            self._terminate("interrupted again", now)
        if self.termination is not None:
            self.termination.hasten(now)

    def _on_signal(self, number: signal.Signals) -> None:
        """Forward a signal; the first that asks for the end ends relaunching, the second and third Ctrl-C hasten."""
        if self.job.is_attached:
            self._let_go(number)
            return
        terminal = self.launch.streams.terminal
        if number is signal.SIGTSTP:
            forward(number, self.job.root.pid)
            self.is_suspended = True
            suspend_self()
            return
        if number is signal.SIGCONT:
            self.is_suspended = False
        if terminal is not None and number in (signal.SIGWINCH, signal.SIGCONT):
            terminal.resize() if number is signal.SIGWINCH else terminal.resume()
        if number not in ENDING:
            forward(number, self.job.root.pid)
            return
        self.interrupts.append(number)
        if self.phase is Phase.WAITING:
            return
        if self.phase is Phase.TERMINATING or (number is signal.SIGINT and self.interrupts.count(number) >= 2):
            self._press_for_end(clock.monotonic())
            return
        forward(number, self.job.root.pid)

    def _let_go(self, number: signal.Signals) -> None:
        """End the supervision of a job that we only look at; it goes on, and heard nothing."""
        if number is signal.SIGTSTP:
            suspend_self()
        elif number in ENDING:
            self.interrupts.append(number)
            if self.phase in _WATCHED:
                self._finish("interrupted", 128 + number)


def draw_chance() -> float:
    """Return a random number in [0, 1)."""
    return int.from_bytes(os.urandom(4), "little") / 2**32


def begin(launch: Launch, started: Started) -> Run:
    """Take over a run whose first attempt has been started."""
    assert started.pid > 0
    relay = start_relay(launch) if launch.streams.relayed else None
    launch.streams.hand_over()
    return Run(launch, relay)


def start_relay(launch: Launch) -> Relay:
    """Return the relay of a command that was just started."""
    relay = Relay.start(launch.streams.relayed, launch.directory.output, spill_folder=launch.directory.path)
    relay.set_raw(launch.streams.is_controlling)
    return relay


def _say_directly(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:  # nobody is left to tell
        pass
