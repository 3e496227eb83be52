"""The ladder of ways to a stack: the richest one that cannot hang on this process comes first, and each has a deadline.

Measured on 16 kinds of hang (D, D with the GIL, SIGSTOP, FUSE, traced, subinterpreter, 200 threads …): 16 of 16 in 9–108 ms, no
target changed. A blocking dump of a process with a thread in D state hangs and freezes its healthy threads meanwhile, hence the
first look.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

import msgspec

from unsloth_watch.capture import pystack
from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.dump import Dump, DumpFailure, Failure
from unsloth_watch.capture.process import ProcessRead, read_start
from unsloth_watch.capture.pyspy import Mode, dump
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task, read_states, read_task
from unsloth_watch.model.process import ProcessRef

RUNG_S = 3.0
"""Deadline of one rung: native unwinding took 1.7 s in a real 200-thread process on a GPU host, 0.2 s at most elsewhere."""
_EXEC_S = 0.05
# py-spy finds no interpreter in a process within 30 ms of its exec.
_HOPELESS = frozenset({Failure.NO_TOOL, Failure.NO_PERMISSION, Failure.GONE})
# Prefixes of kernel functions that wait for a file system or its server: an attach turns such a wait from S into D. The first was
# seen (FUSE), the others are from the sources of the percpu locks, NFS, the page cache, autofs, CIFS, Lustre, GPFS and Ceph.
_UNSAFE_CHANNELS = (
    *("request_wait_answer", "percpu_rwsem_wait", "rpc_wait", "fuse_", "nfs_", "nfs4_", "folio_wait_bit", "autofs_wait"),
    *("wait_for_response", "cl_sync_io_wait", "ptlrpc_", "ldlm_", "cxiWaitEvent", "ceph_"),
)
# A tracer attaches by a stop signal, which ends some calls early. Seen on 6.18 with py-spy 0.4.3, plain and with --native
# alike: a half done write to a pipe or socket, and recv(MSG_WAITALL) with a part already there, return a short count (the
# writer went on and exited); recv, read and accept of a socket with SO_RCVTIMEO, epoll_wait with and without a timeout,
# semtimedop and sigwaitinfo fail with EINTR even without a handler. A socket's timeouts cannot be read from outside, so all its
# calls count, connect too (signal(7)). What goes on as if nothing had happened: read of a pipe, terminal, eventfd or inotify,
# poll, select, nanosleep, futex, wait4, flock, fcntl, msgrcv, mq_receive, pause, sigwait.
_CUT_SHORT = frozenset({"write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendmmsg", "splice"})
_CUT_SHORT |= {"recvfrom", "recvmsg", "recvmmsg", "accept", "accept4", "connect", "epoll_wait", "epoll_pwait", "epoll_pwait2"}
_CUT_SHORT |= {"semop", "semtimedop", "rt_sigtimedwait", "io_getevents"}
_CUT_SHORT_ON_SOCKETS = frozenset({"read", "readv"})

Rung = Callable[[int, float], "Dump | DumpFailure"]
"""A further way, called with PID and deadline after py-spy's.

A signal to faulthandler is none: ``SigCgt`` shows that there is a handler, not whose, and an unknown SIGUSR2 handler may do
anything (torch elastic checkpoints, SLURM requeues); without one it kills.
"""

RUNGS: tuple[Rung, ...] = (pystack.dump,)
"""Further rungs by default."""


class Climb(msgspec.Struct, frozen=True):
    """How the ladder ended.

    Attributes:
        dump: The stacks, or None.
        missing: Why there are none, with the next step; empty where there are or where there can be none.
        notes: What else is worth knowing.
    """

    dump: Dump | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_danger(tasks: Sequence[Task], tracer_pid: int) -> str | None:
    """Return why a blocking dump could hang on this process or change its state, or None."""
    if tracer_pid:
        return f"PID {tracer_pid} traces it"
    for task in tasks:
        if task.state in "DTt":
            return f"thread {task.tid} is in state {task.state}"
        channel = task.wait_channel or ""
        if channel.startswith(_UNSAFE_CHANNELS):
            return f"thread {task.tid} waits in {channel}"
        call = name_syscall(task.syscall)
        if call in _CUT_SHORT or (call in _CUT_SHORT_ON_SOCKETS and _is_on_socket(task)):
            return f"a pause would cut the {call} of thread {task.tid} short"
    return None


def _is_on_socket(task: Task) -> bool:
    """Whether the descriptor that a thread reads from is a socket; a thread that can be no longer asked counts as if it were."""
    try:
        return not task.args or os.readlink(f"/proc/{task.tid}/fd/{task.args[0]}").startswith("socket:")
    except OSError:
        return True


def climb(
    process: ProcessRead,
    deadline: Deadline,
    *,
    is_gentle: bool = False,
    with_locals: bool = False,
    rung_s: float = RUNG_S,
    binary: str | None = None,
    further: Sequence[Rung] = RUNGS,
) -> Climb:
    """Return the stacks of one process by the first rung that answers.

    Args:
        process: What was just read of it.
        deadline: Of all rungs together.
        is_gentle: Never pause it, whatever it waits in: for a process that may be healthy.
        with_locals: Also read local variables.
        rung_s: Seconds for one rung.
        binary: py-spy; None to look for it.
        further: Rungs after py-spy's; one that is not installed is passed over.
    """
    pid = process.ref.pid
    if process.state in "ZX":
        return _describe_ended(process)
    notes: list[str] = []
    words: list[str] = []
    danger = "it may be healthy" if is_gentle else find_danger(process.tasks, process.tracer_pid)
    for mode in _plan(process, danger):
        if deadline.is_over:
            words.append("no time left")
            break
        if mode != "nonblocking" and (risk := _look_again(process.ref)):
            danger = danger or risk
            continue
        answer = _dump(process, mode, deadline.left(rung_s), with_locals, binary)
        notes += _restore(process, answer, is_blocking=mode != "nonblocking")
        if isinstance(answer, Dump):
            if danger:
                notes.append(f"stacks of PID {pid} were read without pausing it, because {danger}: they may be torn")
            return Climb(answer, notes=tuple(notes))
        words.append(answer.message)
        if answer.kind is Failure.NOT_PYTHON and not process.is_named_python:
            return Climb(notes=(*notes, f"PID {pid} is no Python process ({process.executable or process.tasks[0].comm})"))
        if answer.kind in _HOPELESS:
            return Climb(missing=_explain(process, answer), notes=tuple(notes))
    if not danger:
        for rung in further:
            answer = rung(pid, deadline.left(rung_s))
            notes += _restore(process, answer, is_blocking=True)
            if isinstance(answer, Dump):
                return Climb(answer, notes=tuple(notes))
            words += [answer.message] if answer.kind is not Failure.NO_TOOL else []
    reason = "; ".join(dict.fromkeys(words)) or "no way to read it was left"
    return Climb(missing=(f"stack of PID {pid}: {reason}; its threads' waits are listed instead",), notes=tuple(notes))


def _describe_ended(process: ProcessRead) -> Climb:
    pid, others = process.ref.pid, len(process.tasks) - 1
    if process.is_zombie:
        return Climb(notes=(f"PID {pid} is a zombie: it has ended and waits for PID {process.ppid} to ask for its status",))
    return Climb(missing=(f"stack of PID {pid}: its main thread has ended while {others} others live, which py-spy cannot read",))


def _plan(process: ProcessRead, danger: str | None) -> tuple[Mode, ...]:
    """Return the rungs.

    Nonblocking comes thrice, as a read of a moving stack fails now and then: 9 of 100 on fast recursion. A program that is not
    named python gets first what costs it nothing, as it may be none.
    """
    gentle: tuple[Mode, ...] = ("nonblocking", "nonblocking", "nonblocking")
    if danger:
        return gentle
    return ("native", "plain", *gentle) if process.is_named_python else ("nonblocking", "native", "plain", *gentle[1:])


def _look_again(ref: ProcessRef) -> str | None:
    """Return the danger at this moment: the first reads may be seconds old when a rung was late."""
    tasks = [Task(tid, "", state, 0.0) for tid, state in read_states(ref.pid).items()]
    main = read_task(ref.pid, ref.pid)
    return find_danger([*tasks, main] if main else tasks, 0)


def _dump(process: ProcessRead, mode: Mode, seconds: float, with_locals: bool, binary: str | None) -> Dump | DumpFailure:
    """Dump once, and once more for a Python that has just been exec'ed."""
    answer = dump(process.ref.pid, mode, seconds, with_locals=with_locals, binary=binary)
    if isinstance(answer, DumpFailure) and answer.kind is Failure.NOT_PYTHON and process.is_named_python:
        time.sleep(min(_EXEC_S, seconds))
        answer = dump(process.ref.pid, mode, seconds, with_locals=with_locals, binary=binary)
    return answer


def _restore(process: ProcessRead, answer: Dump | DumpFailure, *, is_blocking: bool) -> list[str]:
    """Continue a process that our killed tool left stopped, and say so.

    None of 211 py-spy dumps that were killed in the middle left one stopped; pystack and gdb may. A process that was stopped
    before, or that anybody else may have stopped, is left alone.
    """
    if not is_blocking or any(task.state in "Tt" for task in process.tasks):
        return []
    pid = process.ref.pid
    was_killed = isinstance(answer, DumpFailure) and answer.was_killed
    patience = Deadline(0.2 if was_killed else 0.0)  # the kernel needs some ms to let the threads of a dead tracer go
    while (stopped := _stopped(pid)) and not patience.is_over:
        time.sleep(0.005)
    if not stopped:
        return []
    if not was_killed:
        return [f"PID {pid} was stopped by somebody during the dump; it was left so"]
    _continue(process.ref)
    return [f"the killed dump had left PID {pid} stopped; it was continued with SIGCONT"]


def _continue(ref: ProcessRef) -> None:
    """Send SIGCONT to this very process: the pidfd is opened before the identity is checked, so the PID cannot change hands."""
    try:
        descriptor = os.pidfd_open(ref.pid)
    except OSError:  # it has ended, or the kernel is older than 5.3
        if read_start(ref.pid) == ref.start_ticks:
            os.kill(ref.pid, signal.SIGCONT)
        return
    try:
        if read_start(ref.pid) == ref.start_ticks:
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    except ProcessLookupError:  # it has ended meanwhile
        pass
    finally:
        os.close(descriptor)


def _stopped(pid: int) -> list[int]:
    return [tid for tid, state in read_states(pid).items() if state in "Tt"]


def _explain(process: ProcessRead, failure: DumpFailure) -> tuple[str, ...]:
    pid = process.ref.pid
    if failure.kind is Failure.NO_PERMISSION:
        return (f"stack of PID {pid}: no permission to trace; run with CAP_SYS_PTRACE or set kernel.yama.ptrace_scope=0",)
    if failure.kind is Failure.GONE:
        return (f"stack of PID {pid}: it ended before it could be read",)
    return (f"stack of PID {pid}: {failure.message}",)
