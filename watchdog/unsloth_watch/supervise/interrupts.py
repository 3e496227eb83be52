"""What a user asks for by signals and keys: passed on to the command, and the end, when that is asked for."""

from __future__ import annotations

import signal

from unsloth_watch.act.guardian import read_stat
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.phase import WATCHED, Phase
from unsloth_watch.supervise.signals import ENDING, forward, read_signals, suspend_self

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.keyboard import Keyboard
    from unsloth_watch.supervise.run import Run


class Interrupts:
    """Hears the user of a run.

    Args:
        run: The run.

    Attributes:
        asked: By which signals the end was asked for, oldest first; nothing is relaunched after the first.
    """

    def __init__(self, run: Run) -> None:
        self.asked: list[signal.Signals] = []
        self._run = run
        self._keyboard: Keyboard | None = None
        self._is_suspended = False

    @property
    def is_ending(self) -> bool:
        """Whether somebody has asked for the end."""
        return bool(self.asked)

    @property
    def exit_code(self) -> int:
        """Exit status of a run that ends because it was asked to, as a shell says it."""
        return 128 + self.asked[0]

    def begin_attempt(self) -> None:
        """Listen at the terminal of an attempt that was just started."""
        self._is_suspended = False
        self._keyboard = None
        terminal = self._run.launch.streams.terminal
        if terminal is not None:
            from unsloth_watch.supervise.keyboard import Keyboard  # noqa: PLC0415 - only with a terminal

            self._keyboard = Keyboard(terminal)
            terminal.on_key = self._run.poller.wake

    def hear(self) -> None:
        """Act upon the signals and keys that have come."""
        for number in read_signals(self._run.launch.signals_fd):
            self.receive(number)
        self._read_keyboard()

    def hear_last_press(self) -> None:
        """Count a Ctrl-C of the last seconds as the user's wish to end: the command, which got it, has just ended."""
        if self._keyboard is not None and self._keyboard.is_asked(clock.monotonic()):
            self.asked.append(signal.SIGINT)

    def has_stopped_command(self) -> bool:
        """Whether the command is stopped by the user's own Ctrl-Z: then it hangs as little as the user."""
        fields = read_stat(self._run.job.root.pid) if self._is_suspended else None
        return fields is not None and fields[0] == b"T"

    def receive(self, number: signal.Signals) -> None:
        """Forward a signal; the first that asks for the end ends relaunching, the second and third Ctrl-C hasten."""
        run = self._run
        if run.job.is_attached:
            self._let_go(number)
            return
        terminal = run.launch.streams.terminal
        if number is signal.SIGTSTP:
            self._forward(number)
            self._is_suspended = True
            suspend_self()
            return
        if number is signal.SIGCONT:
            self._is_suspended = False
        if terminal is not None and number in (signal.SIGWINCH, signal.SIGCONT):
            terminal.resize() if number is signal.SIGWINCH else terminal.resume()
        if number not in ENDING:
            self._forward(number)
            return
        self.asked.append(number)
        if run.phase is Phase.WAITING:
            return
        if run.phase is Phase.TERMINATING or (number is signal.SIGINT and self.asked.count(number) >= 2):
            self._hasten(clock.monotonic())
            return
        self._forward(number)

    def _forward(self, number: signal.Signals) -> None:
        """Send a signal on to the command; to nobody once that has ended and its number may be another's."""
        root = self._run.job.root
        if self._run.job.ending is not None:
            return
        forward(number, root.pid)
        fields = read_stat(root.pid) if number in ENDING else None
        if fields is not None and fields[0] == b"T":
            # A stopped process obeys nothing but SIGKILL before somebody continues it; an init does the same.
            forward(signal.SIGCONT, root.pid)

    def _read_keyboard(self) -> None:
        """Hear what a user at the terminal wants; the command itself has heard it from its own terminal."""
        run, keyboard, now = self._run, self._keyboard, clock.monotonic()
        terminal = run.launch.streams.terminal
        if keyboard is None or terminal is None:
            return
        if keyboard.take_suspend():
            terminal.suspend(run.job.root.pid)
        from unsloth_watch.supervise.keyboard import KILL_AT, TERMINATE_AT  # noqa: PLC0415 - only with a terminal

        presses = keyboard.take(now)
        if presses >= KILL_AT or (presses >= TERMINATE_AT and run.phase in WATCHED):
            self._hasten(now)
        if presses and run.phase is Phase.WAITING:
            self.asked.append(signal.SIGINT)

    def _hasten(self, now: float) -> None:
        """End the tree sooner than the grace period would: it has been asked before."""
        run = self._run
        if run.phase in WATCHED:
            self.asked.append(signal.SIGINT)
            run.response.abandon()
            run.terminate("interrupted again", now)
        if run.shutdown is not None:
            run.shutdown.hasten(now)

    def _let_go(self, number: signal.Signals) -> None:
        """End the supervision of a job that we only look at; it goes on, and heard nothing."""
        if number is signal.SIGTSTP:
            suspend_self()
        elif number in ENDING:
            self.asked.append(number)
            if self._run.phase in WATCHED:
                self._run.finish("interrupted", 128 + number)
