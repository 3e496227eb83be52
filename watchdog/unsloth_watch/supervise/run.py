"""A run: the loop, and what each verdict leads to. Reads the world only through ``sense``, changes it only through ``act``."""

from __future__ import annotations

import os
import select
import signal

from unsloth_watch.act.launch import Started
from unsloth_watch.act.relay import Relay
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import EXIT_GAVE_UP, EXIT_START_LIMIT, EXIT_SUPERVISOR, EXIT_UNKILLABLE, LaunchError
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.job import Ending, Job
from unsloth_watch.supervise.launch import Launch
from unsloth_watch.supervise.phase import Phase, move
from unsloth_watch.supervise.restart import (
    UNCHANGED,
    Decision,
    History,
    count_restart,
    decide_after_crash,
    decide_after_hang,
    remember,
)
from unsloth_watch.supervise.signals import ENDING, forward, read_signals, suspend_self
from unsloth_watch.tell.directory import find_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.act.terminate import Termination
    from unsloth_watch.supervise.incident import Investigation
    from unsloth_watch.supervise.keyboard import Keyboard
    from unsloth_watch.supervise.watch import Watch

_TERMINATION_TICK_S = 0.02
"""Seconds between looks at a tree that is being ended."""
_FIRST_TICK_S = 0.1
"""Seconds before an attempt's first sample: a command that ends sooner needs no judge, and the first says nothing anyway."""
_RELAY_FINISH_S = 5.0
"""Longest time without any delivery before output for a reader that does not read is given up at the end."""


class Run:
    """Supervises one command from its first attempt to its outcome.

    Args:
        launch: The run whose first attempt has just been started.
        relay: Relays its output; None where the command writes to our own descriptors.
    """

    def __init__(self, launch: Launch, relay: Relay | None) -> None:
        self.settings: Settings = launch.settings
        self.launch = launch
        self.relay = relay
        self.job = Job(launch)
        self.chronicle = Chronicle(
            launch.directory,
            launch.settings,
            launch.command,
            cwd=launch.cwd,
            environment=launch.environment,
            say=relay.say if relay is not None else _say_directly,
        )
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
        self.restart_at = 0.0
        self._poller = select.poll()
        self._poller.register(launch.signals_fd, select.POLLIN)
        self._wake_fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        self._watched_guardian: int | None = None
        self._keyboard: Keyboard | None = None
        self.watch: Watch | None = None
        self._begin_attempt()

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
            if self.phase in (Phase.RUNNING, Phase.CAPTURING) and ending is not None:
                self._on_ending(ending, now)
            elif self.phase is Phase.TERMINATING:
                self._advance_termination(now)
            elif self.phase is Phase.WAITING and (self.interrupts or now >= self.restart_at):
                self._start_next()
            if self.phase in (Phase.RUNNING, Phase.CAPTURING) and now >= self._next_tick:
                self._tick(now)
            if self.phase is Phase.CAPTURING:
                self._conclude_investigation(now)
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
            due = self.restart_at
        self._poller.poll(max(0.0, 1000 * (due - clock.monotonic())))

    # Watching -------------------------------------------------------------------------------------------------------------------

    def _begin_attempt(self) -> None:
        self.watch = None
        self.is_reported = False
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
        self._next_tick = max(self._next_tick + self.settings.interval, now + self.settings.interval / 2)
        verdict = self.watch.tick(now)
        is_hung = verdict.state.value == "hung"
        if is_hung and self.phase is Phase.RUNNING and not self.is_reported:
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
        self._terminate("hang", now)

    def _terminate(self, reason: str, now: float) -> None:
        from unsloth_watch.act.terminate import Termination  # noqa: PLC0415 - only where somebody is left to end

        self.phase = move(self.phase, Phase.TERMINATING)
        self._reason = reason
        self._told_signals = 0
        self.termination = Termination(self._list_members, (self.job.root.pid, self.job.root.start_ticks), self.settings.grace, now)
        self._advance_termination(now)

    def _list_members(self) -> list[tuple[int, int]]:
        return [(ref.pid, ref.start_ticks) for ref in self.job.members()]

    def _advance_termination(self, now: float) -> None:
        termination = self.termination
        assert termination is not None
        stage = termination.advance(now)
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
        if self._reason != "hang":
            self._settle(ending)
            return
        self.chronicle.attempt_finished(ending.exit_code, ending.signal_name, "hang")
        investigation = self.investigation
        assert investigation is not None
        investigation.note(f"all of the job was dead {now - investigation.decided_at:.1f} s after the verdict")
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
        self.phase = move(self.phase, Phase.WAITING)

    def _refuse(self, why: str, outcome: str, exit_code: int) -> None:
        self.chronicle.event("restart.refused", why=why)
        if self.investigation is not None:
            self.investigation.note(f"not started again: {why}")
        self._finish(outcome, exit_code)

    def next_environment(self) -> dict[str, str]:
        """Return the user's environment with what remedies have changed so far."""
        environment = dict(self.launch.environment)
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
        if self.investigation is not None:
            self.investigation = None
        if any(ref != self.job.root for ref in self.job.members()):
            self._terminate("left behind by the command", now)
        else:
            self._settle(ending)

    def _settle(self, ending: Ending) -> None:
        """Decide what the command's own end means."""
        code = ending.exit_code if ending.exit_code is not None else EXIT_SUPERVISOR
        if self._keyboard is not None and self._keyboard.is_asked(clock.monotonic()):
            self.interrupts.append(signal.SIGINT)
        reason = "interrupted" if self.interrupts else None
        self.chronicle.attempt_finished(ending.exit_code, ending.signal_name, reason)
        if code != 0 and not self.interrupts and "crash" in self.settings.restart_on:
            decision = decide_after_crash(self.history, code, max_restarts=self.settings.max_restarts, chance=draw_chance)
            if decision.is_restart:
                self._schedule(decision, clock.monotonic())
            else:
                self._refuse(decision.why, "failed", EXIT_START_LIMIT)
            return
        self._finish("interrupted" if self.interrupts else "completed" if code == 0 else "failed", code)

    def _finish(self, outcome: str, exit_code: int) -> None:
        self.exit_code = exit_code
        self.phase = move(self.phase, Phase.FINISHED)
        if self.investigation is not None:
            self.investigation.write()
            self.past.append(self.investigation)
        elif self.past and self.past[-1].is_mended:
            ended = {"completed": "completed", "failed": f"ended with status {exit_code}"}.get(outcome, f"was {outcome}")
            self.past[-1].conclude(f"attempt {self.attempt} ran with it and {ended}")
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
        self.job.guardian.close()
        self.launch.heartbeat.close()

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
        if presses >= KILL_AT or (presses >= TERMINATE_AT and self.phase in (Phase.RUNNING, Phase.CAPTURING)):
            self._press_for_end(now)
        if presses and self.phase is Phase.WAITING:
            self.interrupts.append(signal.SIGINT)

    def _press_for_end(self, now: float) -> None:
        """End the tree sooner than the grace period would: it has been asked before."""
        if self.phase in (Phase.RUNNING, Phase.CAPTURING):
            self.interrupts.append(signal.SIGINT)
            self._terminate("interrupted again", now)
        if self.termination is not None:
            self.termination.hasten(now)

    def _on_signal(self, number: signal.Signals) -> None:
        """Forward a signal; the first that asks for the end ends relaunching, the second and third Ctrl-C hasten."""
        terminal = self.launch.streams.terminal
        if number is signal.SIGTSTP:
            forward(number, self.job.root.pid)
            suspend_self()
            return
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


def draw_chance() -> float:
    """Return a random number in [0, 1)."""
    return int.from_bytes(os.urandom(4), "little") / 2**32


def begin(launch: Launch, started: Started) -> Run:
    """Take over a run whose first attempt has been started."""
    assert started.pid > 0
    relay = None
    if launch.streams.relayed:
        relay = Relay.start(launch.streams.relayed, launch.directory.output, spill_folder=launch.directory.path)
        relay.set_raw(launch.streams.is_controlling)
    launch.streams.hand_over()
    return Run(launch, relay)


def _say_directly(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:  # nobody is left to tell
        pass
