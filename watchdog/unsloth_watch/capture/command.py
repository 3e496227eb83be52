"""Commands with a deadline, whose children end with them and with the supervisor."""

from __future__ import annotations

import errno
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import msgspec

from unsloth_watch.capture.children import announce_child, forget_child, register_child
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within

MAX_OUTPUT_BYTES = 32 << 20
"""Output kept of a command. py-spy's JSON for 200 threads of 40 native frames with locals is about 4 MB."""
_KILL_GRACE_S = 1.0
# A command that has been killed ends within a few ms; a second means that it sits in D state, and its thread waits for it alone.


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended.

    Attributes:
        rc: Exit status, negative for a signal; None where it had not ended when the deadline passed.
        stdout: What it wrote, at most the limit.
        stderr: What it wrote, at most the limit.
        timed_out: Whether it was killed because its time was over.
        is_truncated: Whether it was killed because it wrote more than the limit.
        seconds: Wall seconds it took.
    """

    rc: int | None
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    is_truncated: bool = False
    seconds: float = 0.0


def run_command(
    argv: Sequence[str],
    deadline_s: float,
    *,
    env: Mapping[str, str] | None = None,
    limit: int = MAX_OUTPUT_BYTES,
) -> Outcome:
    """Run a command with closed stdin, in a session of its own, and SIGKILL that session when the time is over.

    Args:
        argv: Command; the first item should be an absolute path.
        deadline_s: Seconds for all of it.
        env: Its environment; None for ours.
        limit: Bytes kept of each of stdout and stderr; more ends it.

    Raises:
        OSError: It could not be started.
        DeadlineError: The file system that holds the program does not answer, or too many earlier calls are stuck.
    """
    # CPython holds the interpreter lock across vfork and exec: a program on a dead NFS server would freeze every thread of the
    # supervisor. Its first page is therefore read in a thread that can be abandoned.
    if os.path.isabs(argv[0]):
        within(deadline_s, _touch, argv[0])
    try:
        return within(deadline_s + _KILL_GRACE_S, _run, list(argv), deadline_s, None if env is None else dict(env), limit)
    except DeadlineError:
        return Outcome(None, b"", b"", timed_out=True, seconds=deadline_s)


def _touch(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # setpriv, like a shell, would take any other file for a script.
        if os.read(descriptor, 4096)[:2] not in (b"\x7fE", b"#!"):
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
    finally:
        os.close(descriptor)


def _run(argv: list[str], deadline_s: float, env: dict[str, str] | None, limit: int) -> Outcome:
    start = time.monotonic()
    deadline = Deadline(deadline_s)
    with own_child(
        lambda: subprocess.Popen(
            [*_leash(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    ) as process:
        stdout, stderr, is_truncated, timed_out = _collect(process, deadline, limit)
    return Outcome(process.returncode, stdout, stderr, timed_out, is_truncated, time.monotonic() - start)


@cache
def _leash() -> tuple[str, ...]:
    """Return the words before a command that let it die with the supervisor, none where ``setpriv`` is missing.

    The guardian does not see children of the supervisor itself, and a py-spy that waits for a process in D state would stay
    for ever. The kernel sends the signal when the thread ends that started the child: the one in ``own_child``, which waits for it.
    """
    found = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    return (found, "--pdeathsig", "KILL", "--") if found else ()


@contextmanager
def own_child(start: Callable[[], subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a session of its own, register its PID, and at the end kill it unless it has ended, and reap it.

    Args:
        start: Starts it with ``start_new_session=True``.

    Raises:
        OSError: It could not be started.
    """
    announce_child()
    pid = None
    try:
        process = start()
        pid = process.pid
    finally:
        register_child(pid)
    try:
        yield process
    finally:
        if process.returncode is None:
            _kill_session(process.pid)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()  # in D state this takes as long as it takes, in an abandoned thread; the PID stays registered until then
        forget_child(process.pid)


def _kill_session(pid: int) -> None:
    """SIGKILL a child that has not been reaped yet, so that its PID cannot be anybody else's, and what it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it has not reached setsid() yet


def _collect(process: subprocess.Popen[bytes], deadline: Deadline, limit: int) -> tuple[bytes, bytes, bool, bool]:
    """Read both pipes to their ends and wait; return stdout, stderr, whether the limit and whether the deadline cut it off."""
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    first, second = outputs
    is_truncated = False
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and not deadline.is_over and not is_truncated:
            for key, _ in selector.select(deadline.left()):
                chunk = os.read(key.fd, 1 << 16)
                outputs[key.fd] += chunk
                is_truncated |= len(outputs[key.fd]) > limit
                if not chunk:
                    selector.unregister(key.fd)
        is_open = bool(selector.get_map())
    timed_out = False
    if is_open and not is_truncated:
        # It is late, or it has ended and something that it started keeps the pipes open: end that, too, while the unreaped
        # child still guards the number of its process group.
        timed_out = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        _kill_session(process.pid)
    elif not is_truncated:
        try:
            process.wait(deadline.left())
        except subprocess.TimeoutExpired:
            timed_out = True
    return bytes(outputs[first][:limit]), bytes(outputs[second][:limit]), is_truncated, timed_out
