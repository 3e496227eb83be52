"""Supervision of a job that somebody else started: watched like our own, ended only where that was asked for, relaunched as ours.

Until a relaunch there is no guardian and no relay: the job has its own parent and its own output, and outlives us.
"""

from __future__ import annotations

import os
import select

from unsloth_watch.act.guardian import become_subreaper
from unsloth_watch.act.isolation import isolate
from unsloth_watch.act.launch import Guardian, Started
from unsloth_watch.act.terminate import is_running
from unsloth_watch.capture.children import own_pids
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import CannotLookError, WatchError
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.exitinfo import read_exit_status
from unsloth_watch.sense.heartbeat import HeartbeatReader
from unsloth_watch.sense.stat import read_stat
from unsloth_watch.sense.tree import ProcessTree
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.job import Ending, Job
from unsloth_watch.supervise.launch import Launch, catch_signals, choose_directory
from unsloth_watch.supervise.streams import Streams

_STATUS_S = 1.0
"""Longest wait, from a process's end, for its parent to collect it: only then does the kernel tell its status."""


class Onlooker(Guardian):
    """Stands where the guardian of a launched job stands: tells the loop of the end, and owns nobody.

    Args:
        pid: The job's root.
        pidfd: Descriptor of it; readable when it has ended.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.is_lost = False
        self.pidfd = pidfd

    def fileno(self) -> int:
        """Descriptor for poll."""
        return self.pidfd

    def is_alive(self) -> bool:
        """Whether the job's root lives."""
        return not self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether the job's root has ended, waited for or not; not told any more once it was let go."""
        if self.pidfd < 0:
            return False
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def close(self, kill: bool = True, timeout_s: float = 0.0) -> bool:
        """Let go, once; the job lives on."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        return True


class Attachment(Launch):
    """A run whose first attempt was started by somebody else.

    Args:
        settings: The run's settings.
        pid: The job's root.

    Raises:
        CannotLookError: There is no such process, it is another user's, one that we live in, or has a supervisor already.
        ConfigError: The run directory cannot be made.
    """

    def __init__(self, settings: Settings, pid: int) -> None:
        self.settings = settings
        self.started, pidfd = _identify(pid)
        self.command, self.environment, self.cwd = _read_launch(pid)
        self.directory, self.warning = choose_directory(settings, self.command, os.environ)
        self.heartbeat = HeartbeatReader(self.directory.path)
        self.isolation = isolate("keep", self.environment, self.command, self.cwd)
        self.reread = None
        self.changes = {}
        self.group = None
        self.is_input_closed = False
        self.streams = Streams(Settings({"capture": "inherit"}, {}))
        self._passed_fds = []
        become_subreaper()
        self.guardian = Onlooker(pid, pidfd)
        self.signals_fd = catch_signals()


class AttachedJob(Job):
    """The job of an attachment, until it is relaunched.

    Args:
        launch: The attachment.
    """

    def __init__(self, launch: Attachment) -> None:
        self._ended_at: float | None = None
        self._onlooker: Onlooker | None = None
        assert isinstance(launch.guardian, Onlooker)
        self._onlooker = launch.guardian
        super().__init__(launch)
        self.is_attached = True

    def start(self, attempt: int, remedied: dict[str, str | None]) -> None:
        """Start the next attempt as our own, below a guardian.

        Raises:
            LaunchError: It could not be executed.
        """
        if self._onlooker is not None:
            self._onlooker.close()
            self._onlooker = None
            self.is_attached = False
            self._launch.guardian = Guardian.spawn()
            self.tree.close()
            self.tree = self._grow_tree()
        super().start(attempt, remedied)

    def poll(self) -> Ending | None:
        """Learn whether the job has ended; never blocks."""
        if self._onlooker is None:
            return super().poll()
        if self.ending is None and self._onlooker.has_ended:
            now = clock.monotonic()
            self._ended_at = self._ended_at or now
            status = read_exit_status(self._onlooker.pidfd)
            if status is not None or now - self._ended_at > _STATUS_S:
                self.ending = Ending(status)
        return self.ending

    def _grow_tree(self) -> ProcessTree:
        if self._onlooker is None:
            return super()._grow_tree()
        return ProcessTree((self._onlooker.pid,), lambda: {os.getpid(), *own_pids()}, has_anchors=True)


def _identify(pid: int) -> tuple[Started, int]:
    """Return who the process is and a descriptor that holds it fast.

    Raises:
        CannotLookError: It cannot or must not be attached to.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError):  # or a number that no process can have
        raise CannotLookError(f"there is no process {pid}; see ps -e for those that are") from None
    except OSError as error:
        raise CannotLookError(f"process {pid} cannot be watched ({error.strerror}); attach needs Linux 5.3") from None
    stat = read_stat(pid)
    why = "it has ended" if stat is None else _find_objection(ProcessRef(pid, stat.start_ticks), stat.ppid)
    if why is not None or stat is None:
        os.close(pidfd)
        raise CannotLookError(f"cannot attach to process {pid}: {why}")
    return Started(pid, stat.start_ticks), pidfd


def _find_objection(ref: ProcessRef, ppid: int) -> str | None:
    """Return why a process is not to be attached to, None where nothing speaks against it."""
    if not is_running(ref.pid, ref.start_ticks):
        return "it has ended"
    if ppid == 2 or ref.pid == 2:
        return "it is a thread of the kernel"
    if ref.pid in _ancestors():
        return "this very program runs inside it"
    try:
        with open(f"/proc/{ref.pid}/status", encoding="ascii", errors="replace") as stream:
            owners = {int(word) for line in stream if line.startswith("Uid:") for word in line.split()[1:4]}
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if owners != {os.geteuid()}:
        names = ", ".join(map(str, sorted(owners)))
        return f"it belongs to user {names} and you are {os.geteuid()}: a job is ended and relaunched as its own user only"
    return None


def _ancestors() -> set[int]:
    """Return ourselves and everybody above us."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = read_stat(pid)
        pid = stat.ppid if stat is not None else 0
    return found


def _read_launch(pid: int) -> tuple[tuple[str, ...], dict[str, str], str]:
    """Return by what command, environment and directory a process could be started again.

    Raises:
        CannotLookError: One of them cannot be read, or it is supervised already.
    """
    try:
        words = _read_words(pid, "cmdline")
        pairs = [word.partition("=") for word in _read_words(pid, "environ")]
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except OSError as error:
        raise CannotLookError(f"process {pid} cannot be read ({error.strerror}); see unsloth-watch inspect {pid}") from None
    environment = {name: value for name, is_pair, value in pairs if is_pair and name}
    directory = environment.get("UNSLOTH_WATCH_RUN_DIR")
    if directory is not None and _is_answered(directory):
        raise CannotLookError(f"process {pid} has a supervisor already; see unsloth-watch show {directory}")
    return tuple(words), environment, cwd


def _is_answered(directory: str) -> bool:
    """Whether a supervisor listens in a run directory; one that was killed leaves its socket there."""
    from unsloth_watch.supervise.request import NotRunningError, ask  # noqa: PLC0415 - only for a job that was supervised once

    try:
        ask(directory, "show")
    except NotRunningError:
        return False
    except WatchError:  # it refuses, or is stopped: it is there
        return True
    return True


def _read_words(pid: int, name: str) -> list[str]:
    with open(f"/proc/{pid}/{name}", "rb") as stream:
        data = stream.read()
    return [os.fsdecode(word) for word in data.removesuffix(b"\0").split(b"\0")] if data else []
