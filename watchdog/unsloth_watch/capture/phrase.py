"""What a blocked thread waits for, as a phrase for people: the system call, its descriptor and what stands behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from unsloth_watch.capture.memory import (
    read_address,
    read_pause,
    read_poll_set,
    read_select_sets,
    read_string,
    read_timespec,
)
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task
from unsloth_watch.waits.wait import is_sleep


class Wait(msgspec.Struct, frozen=True):
    """A wait.

    Attributes:
        call: Name of the system call.
        phrase: For people.
        fds: Descriptors that it waits on.
        path: Path that the call names, as it was given; None where it names none or it cannot be read.
    """

    call: str
    phrase: str
    fds: tuple[int, ...] = ()
    path: str | None = None


class Scene(msgspec.Struct, frozen=True):
    """What a phrase may look up.

    Attributes:
        pid: Process, whose memory is read.
        targets: What each open descriptor stands for.
        watched: Descriptors that each epoll descriptor watches.
    """

    pid: int
    targets: Mapping[int, str] = {}
    watched: Mapping[int, tuple[int, ...]] = {}

    def name(self, fd: int) -> str:
        """Return ``fd 7 → /path``."""
        standard = {0: " (standard input)", 1: " (standard output)", 2: " (standard error)"}.get(fd, "")
        return f"fd {fd} → {self.targets.get(fd, '?')}{standard}"

    def name_all(self, fds: tuple[int, ...]) -> str:
        """Return the names of several, the first six of them."""
        more = f" and {len(fds) - 6} more" if len(fds) > 6 else ""
        return ", ".join(self.name(fd) for fd in fds[:6]) + more if fds else "no descriptor"


def describe_wait(task: Task, scene: Scene, machine: str | None = None) -> Wait | None:
    """Return what a thread waits for; None when it is in no known call.

    Args:
        task: The thread.
        scene: Its process.
        machine: Whose numbers they are; None for this machine.
    """
    call = name_syscall(task.syscall, machine)
    if call is None:
        return None
    args = (*task.args, 0, 0, 0, 0, 0, 0)[:6]
    describe = _sleep if is_sleep(call, args) else _PHRASES.get(call)
    phrase, fds = describe(call, args, scene) if describe else (call, ())
    index = _PATH_ARGUMENTS.get(call)
    return Wait(call, phrase, fds, None if index is None else read_string(scene.pid, args[index]))


_Args = tuple[int, ...]
_Said = tuple[str, tuple[int, ...]]


def _int(value: int) -> int:
    """Return the C ``int`` in the lower half of a register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _timeout(milliseconds: int) -> str:
    return "no timeout" if milliseconds < 0 else f"timeout {milliseconds / 1000:g} s"


def _timespec(pid: int, address: int) -> str:
    if not address:
        return "no timeout"
    seconds = read_timespec(pid, address)
    return "with a timeout" if seconds is None else f"timeout {seconds:.3g} s"


def _on_fd(words: str) -> Callable[[str, _Args, Scene], _Said]:
    def say(call: str, args: _Args, scene: Scene) -> _Said:
        fd = _int(args[0])
        return f"{words} {scene.name(fd)}", (fd,)

    return say


def _futex(call: str, args: _Args, scene: Scene) -> _Said:
    command = args[1] & 0x7F  # FUTEX_CMD_MASK takes the flags PRIVATE (128) and CLOCK_REALTIME (256) off
    words = {0: "wait", 9: "wait", 11: "wait", 6: "lock", 13: "lock"}.get(command, f"operation {command}")
    timeout = "with a timeout" if args[3] and words in {"wait", "lock"} else "no timeout"
    return f"futex {words}, {timeout}", ()


def _fcntl(call: str, args: _Args, scene: Scene) -> _Said:
    fd = _int(args[0])
    kind = {7: "waits for the fcntl lock", 38: "waits for the fcntl lock of the open file"}.get(
        _int(args[1]), f"fcntl command {_int(args[1])}"
    )
    return f"{kind} on {scene.name(fd)}", (fd,)


def _wait4(call: str, args: _Args, scene: Scene) -> _Said:
    pid = _int(args[0])
    return (
        "waits for any child to end" if pid == -1 else f"waits for PID {pid} to end" if pid > 0 else "waits for a child of a group"
    ), ()


def _waitid(call: str, args: _Args, scene: Scene) -> _Said:
    kind, number = _int(args[0]), _int(args[1])
    if kind == 3:
        return f"waits for the process behind {scene.name(number)}", (number,)
    return {0: "waits for any child to end", 1: f"waits for PID {number} to end"}.get(kind, "waits for a child of a group"), ()


def _poll(call: str, args: _Args, scene: Scene) -> _Said:
    fds = read_poll_set(scene.pid, args[0], _int(args[1]))
    timeout = _timeout(_int(args[2])) if call == "poll" else _timespec(scene.pid, args[2])
    return f"polls {scene.name_all(fds)}, {timeout}", fds


def _select(call: str, args: _Args, scene: Scene) -> _Said:
    fds = read_select_sets(scene.pid, _int(args[0]), args[1:4])
    # select has a timeval (microseconds) and pselect6 a timespec; glibc uses pselect6 for both since 2.34
    timeout = _timespec(scene.pid, args[4]) if call == "pselect6" else ("with a timeout" if args[4] else "no timeout")
    return f"selects on {scene.name_all(fds)}, {timeout}", fds


def _epoll(call: str, args: _Args, scene: Scene) -> _Said:
    fd = _int(args[0])
    fds = scene.watched.get(fd, ())
    timeout = _timespec(scene.pid, args[3]) if call == "epoll_pwait2" else _timeout(_int(args[3]))
    return f"epoll wait on fd {fd} for {scene.name_all(fds)}, {timeout}", (fd, *fds)


def _sleep(call: str, args: _Args, scene: Scene) -> _Said:
    seconds = read_pause(scene.pid, call, args)
    if seconds is None:
        return f"sleeps ({call})", ()
    if call == "clock_nanosleep" and args[1] & 1:  # TIMER_ABSTIME, as Python's time.sleep asks for on CLOCK_MONOTONIC since 3.11
        clock = _int(args[0])
        if clock not in {0, 1, 7}:
            return f"sleeps ({call})", ()
        return f"sleeps, {max(0.0, seconds - time.clock_gettime(clock)):.3g} s left ({call})", ()
    return f"sleeps for {seconds:.3g} s ({call})", ()


def _connect(call: str, args: _Args, scene: Scene) -> _Said:
    fd = _int(args[0])
    return f"connects {scene.name(fd)} to {read_address(scene.pid, args[1], _int(args[2])) or 'an unreadable address'}", (fd,)


def _on_path(index: int) -> Callable[[str, _Args, Scene], _Said]:
    def say(call: str, args: _Args, scene: Scene) -> _Said:
        return f"{call} of {read_string(scene.pid, args[index]) or 'an unreadable path'}", ()

    return say


def _on_id(words: str) -> Callable[[str, _Args, Scene], _Said]:
    return lambda call, args, scene: (f"{words} {_int(args[0])}", ())


def _splice(call: str, args: _Args, scene: Scene) -> _Said:
    here, there = (_int(args[0]), _int(args[2])) if call == "splice" else (_int(args[1]), _int(args[0]))
    return f"moves bytes from {scene.name(here)} to {scene.name(there)}", (here, there)


def _say(words: str) -> Callable[[str, _Args, Scene], _Said]:
    return lambda call, args, scene: (words, ())


_PATH_ARGUMENTS = {
    **dict.fromkeys(("open", "stat", "lstat", "access", "mkdir", "rmdir", "creat", "unlink", "readlink", "chdir"), 0),
    **dict.fromkeys(("statfs", "truncate", "rename", "link", "execve", "umount2"), 0),
    **dict.fromkeys(("openat", "openat2", "newfstatat", "statx", "mkdirat", "unlinkat", "readlinkat"), 1),
    **dict.fromkeys(("faccessat", "faccessat2", "renameat", "renameat2", "linkat"), 1),
}
# Which argument of a call is a path.
_PHRASES: dict[str, Callable[[str, _Args, Scene], _Said]] = {
    **dict.fromkeys(("read", "pread64", "readv", "preadv"), _on_fd("reads from")),
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev"), _on_fd("writes to")),
    **dict.fromkeys(("recvfrom", "recvmsg", "recvmmsg"), _on_fd("receives from")),
    **dict.fromkeys(("sendto", "sendmsg", "sendmmsg"), _on_fd("sends to")),
    **dict.fromkeys(("accept", "accept4"), _on_fd("accepts a connection on")),
    **dict.fromkeys(("fsync", "fdatasync", "sync_file_range", "syncfs"), _on_fd("flushes to storage")),
    **dict.fromkeys(("getdents", "getdents64"), _on_fd("lists")),
    **dict.fromkeys(("fstat", "fstatfs", "ftruncate", "fallocate", "close", "ioctl", "io_uring_enter"), _on_fd("a call on")),
    **{call: _on_path(index) for call, index in _PATH_ARGUMENTS.items()},
    **dict.fromkeys(("select", "pselect6"), _select),
    **dict.fromkeys(("poll", "ppoll"), _poll),
    **dict.fromkeys(("epoll_wait", "epoll_pwait", "epoll_pwait2"), _epoll),
    **dict.fromkeys(("nanosleep", "clock_nanosleep"), _sleep),
    **dict.fromkeys(("vfork", "clone", "clone3"), _say("waits for a child to exec (vfork)")),
    **dict.fromkeys(("rt_sigtimedwait", "rt_sigsuspend", "pause"), _say("waits for a signal")),
    **dict.fromkeys(("mmap", "munmap", "mprotect", "madvise", "mremap", "brk"), _say("changes its memory map")),
    **dict.fromkeys(("semop", "semtimedop"), _on_id("waits for the System V semaphores")),
    **dict.fromkeys(("splice", "sendfile"), _splice),
    "msgrcv": _on_id("waits for a message of the System V queue"),
    "msgsnd": _on_id("waits for room in the System V queue"),
    "mq_timedreceive": _on_fd("waits for a message on"),
    "mq_timedsend": _on_fd("waits for room in the queue"),
    "flock": _on_fd("waits for the flock on"),
    "fcntl": _fcntl,
    "futex": _futex,
    "futex_waitv": _say("futex wait on several"),
    "wait4": _wait4,
    "waitid": _waitid,
    "connect": _connect,
    "msync": _say("flushes mapped memory to storage"),
    "restart_syscall": _say("goes on with a timed wait after a signal"),
}
