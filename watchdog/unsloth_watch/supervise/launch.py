"""The first launch, on the shortest way to the command's exec: nothing heavy is imported before it runs."""

from __future__ import annotations

import os
import signal
import time

from unsloth_watch.act.group import JobGroup, make_group
from unsloth_watch.act.guardian import become_subreaper
from unsloth_watch.act.isolation import isolate
from unsloth_watch.act.launch import Guardian, inherited_fds
from unsloth_watch.errors import RunDirectoryError, WatchError
from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.supervise.environment import compose_environment
from unsloth_watch.supervise.streams import Streams
from unsloth_watch.tell.directory import (
    RunDirectory,
    claim_temporary_base,
    create_run_directory,
    find_base,
    find_temporary_base,
    use_run_directory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from unsloth_watch.act.launch import Started
    from unsloth_watch.config.settings import Settings

FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT,
    signal.SIGTSTP,
)  # fmt: skip
"""Signals that the loop hears of; the handler itself does nothing."""


class Launch:
    """A run whose first attempt has been started, and what is needed to start the next.

    Args:
        settings: The run's settings.
        command: Argument vector.
        environment: The user's environment.

    Attributes:
        directory: The run directory.
        isolation: Where this run's compile caches are, and why.
        reread: Reads the settings again from all their sources; None where the caller has none.
        started: The command, from the last ``start``.
        changes: How its environment differs from the user's.
        signals_fd: Readable when a signal has come; its bytes are signal numbers.
        group: The control group of the attempt that runs; None where none was delegated.
        is_input_closed: Whether the next attempts get an empty standard input; set by a remedy.
    """

    def __init__(self, settings: Settings, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.command = tuple(command)
        self.environment = environment
        self.cwd = os.getcwd()
        self.directory, self.warning = choose_directory(settings, command, environment)
        self.heartbeat = HeartbeatReader(self.directory.path)
        self.isolation = isolate(settings.cache, environment, command, self.cwd)
        self.reread: Callable[[], Settings] | None = None
        self.started: Started | None = None
        self.changes: dict[str, str | None] = {}
        self.streams: Streams
        self.group: JobGroup | None = None
        self.is_input_closed = False
        self._passed_fds = inherited_fds()
        become_subreaper()
        self.guardian = Guardian.fork()
        self.signals_fd = catch_signals()

    def start(self, attempt: int, remedied: Mapping[str, str | None]) -> Started:
        """Start an attempt; ``streams`` holds its output afterwards, to be relayed and then handed over.

        Args:
            attempt: Its number, from 1.
            remedied: Variables that remedies set; None unsets.

        Raises:
            LaunchError: It could not be executed.
            ConfigError: Its streams cannot be what was asked for.
        """
        self.remove_group()
        self.group = make_group(attempt)
        streams = Streams(self.settings, is_input_closed=self.is_input_closed)
        markers = {
            **self.isolation.variables,
            "UNSLOTH_WATCH_RUN": self.directory.id,
            "UNSLOTH_WATCH_RUN_DIR": self.directory.path,
            "UNSLOTH_WATCH_ATTEMPT": str(attempt),
            "NOTIFY_SOCKET": self.heartbeat.address,
        }
        environment, self.changes = compose_environment(self.environment, remedied, markers, is_piped=streams.is_piped)
        try:
            self.started = self.guardian.start(
                self.command, environment, self.cwd, streams.stdin_fd, streams.stdout_fd, streams.stderr_fd,
                is_terminal=streams.is_controlling, pass_fds=self._passed_fds, group=self.group.path if self.group else "",
            )  # fmt: skip
        except WatchError:
            streams.abandon()
            raise
        self.streams = streams
        return self.started

    def remove_group(self) -> None:
        """Remove the control group of an attempt that is over."""
        if self.group is not None:
            self.group.remove()
            self.group = None

    def discard(self) -> None:
        """Undo everything after a first start that failed: nothing was started, so nothing is left behind."""
        self.guardian.close()
        self.remove_group()
        self.heartbeat.close()
        try:
            os.rmdir(self.directory.path)
        except OSError:  # somebody put something there: theirs
            pass


def choose_directory(settings: Settings, command: Sequence[str], environment: Mapping[str, str]) -> tuple[RunDirectory, str | None]:
    """Return a fresh run directory, and a warning where it had to be put elsewhere.

    Raises:
        RunDirectoryError: The directory that the user named cannot be used, or neither the usual nor the temporary place can.
    """
    if settings.run_dir is not None:
        return use_run_directory(settings.run_dir), None
    name = settings.name or os.path.basename(name_command(command))
    if settings.runs_dir is not None:
        return create_run_directory(settings.runs_dir, name, time.time), None
    try:
        base = find_base(environment)
        if base == find_temporary_base(environment):
            claim_temporary_base(base)
        return create_run_directory(base, name, time.time), None
    except RunDirectoryError as error:
        # A home that cannot be written is no reason not to watch a job.
        base = find_temporary_base(environment)
        claim_temporary_base(base)
        directory = create_run_directory(base, name, time.time)
        return directory, f"{error}; used {base} instead"


def name_command(command: Sequence[str]) -> str:
    """Return the word that tells this command from others: the script or module rather than its interpreter."""
    program = command[0]
    if os.path.basename(program).startswith("python"):
        for word in command[1:]:
            if word == "-c":
                break
            if not word.startswith("-"):
                return word.removesuffix(".py")
    return program


def catch_signals() -> int:
    """Let signals wake the loop through a pipe; return its reading end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in FORWARDED:
        # A signal that was ignored when we were started (nohup) stays ignored, for the command too.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    return reader


def _do_nothing(_number: int, _frame: object) -> None:
    """Exist: the wake-up descriptor carries the news."""
