"""What every thread of a process waits in, from ``/proc/PID/task``; nothing here pauses or touches the process."""

from __future__ import annotations

import os

import msgspec

from unsloth_watch.capture.text import decode

_SWITCHES = b"\nvoluntary_ctxt_switches:"
_TICKS = os.sysconf("SC_CLK_TCK")


class Task(msgspec.Struct, frozen=True):
    """One kernel thread of a process. ``None`` is unreadable.

    Attributes:
        tid: Kernel thread id.
        comm: Kernel's name of it, at most 15 bytes.
        state: State letter.
        cpu_s: CPU seconds, user and system.
        wait_channel: Kernel function it sleeps in; empty while it runs.
        syscall: Number of the call it is in; -1 for none; None while it runs.
        args: Six raw arguments of the call.
        stack_pointer: User stack pointer while it is blocked.
        vctx: Voluntary context switches.
    """

    tid: int
    comm: str
    state: str
    cpu_s: float
    wait_channel: str | None = None
    syscall: int | None = None
    args: tuple[int, ...] = ()
    stack_pointer: int | None = None
    vctx: int | None = None


class Stat(msgspec.Struct, frozen=True):
    """The fields of a ``stat`` file that a capture needs.

    Attributes:
        comm: Short name.
        state: State letter.
        ppid: Parent's PID.
        cpu_s: CPU seconds, user and system.
        start_ticks: Start time in clock ticks since boot.
    """

    comm: str
    state: str
    ppid: int
    cpu_s: float
    start_ticks: int


def read_file(path: str) -> bytes:
    """Return a /proc file to its end: one ``read`` truncates at a page.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(descriptor)
    return b"".join(chunks)


def parse_stat(raw: bytes) -> Stat | None:
    """Return the fields of a ``stat`` line, or None if it is none; the name in parentheses may hold spaces and parentheses."""
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    try:
        return Stat(
            comm=decode(head.partition(b"(")[2]),
            state=fields[0].decode("ascii"),
            ppid=int(fields[1]),
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
            start_ticks=int(fields[19]),
        )
    except (IndexError, ValueError):
        return None


def parse_syscall(raw: bytes) -> tuple[int | None, tuple[int, ...], int | None]:
    """Return number, arguments and stack pointer from a ``syscall`` file: ``running``, ``-1 sp pc`` or ``nr a b c d e f sp pc``."""
    fields = raw.split()
    try:
        values = [int(field, 0) for field in fields]
    except ValueError:
        return None, (), None
    if len(values) < 3:
        return None, (), None
    return values[0], tuple(values[1:-2]), values[-2]


def parse_status(raw: bytes) -> dict[str, str]:
    """Return a ``status`` file's lines by name."""
    # Decoded at once: 55 lines one by one take twice as long.
    pairs = (line.partition(":") for line in decode(raw).split("\n") if line)
    return {name: value.strip() for name, _, value in pairs}


def read_task(pid: int, tid: int) -> Task | None:
    """Return one thread, or None when it has ended; about 35 µs."""
    folder = f"/proc/{pid}/task/{tid}"
    try:
        stat = parse_stat(read_file(f"{folder}/stat"))
    except OSError:
        return None
    if stat is None:
        return None
    number, args, stack_pointer = parse_syscall(_try_read(f"{folder}/syscall") or b"")
    channel = _try_read(f"{folder}/wchan")
    vctx = (_try_read(f"{folder}/status") or b"").partition(_SWITCHES)[2].partition(b"\n")[0].strip()
    return Task(
        tid=tid,
        comm=stat.comm,
        state=stat.state,
        cpu_s=stat.cpu_s,
        wait_channel=None if channel is None else decode(channel).strip().removeprefix("0"),
        syscall=number,
        args=args,
        stack_pointer=stack_pointer,
        vctx=int(vctx) if vctx.isdigit() else None,
    )


def read_tasks(pid: int) -> tuple[Task, ...]:
    """Return every thread of a process, the main one first.

    Raises:
        OSError: There is no such process, or its threads may not be listed.
    """
    tids = sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid))
    tasks = (read_task(pid, tid) for tid in tids)
    return tuple(task for task in tasks if task is not None)


def read_states(pid: int) -> dict[int, str]:
    """Return the state letter of every thread; empty when the process has gone. For before and after a dump."""
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return {}
    states = {}
    for tid in tids:
        stat = parse_stat(_try_read(f"/proc/{pid}/task/{tid}/stat") or b"")
        if stat is not None:
            states[tid] = stat.state
    return states


def _try_read(path: str) -> bytes | None:
    """Return a file that may be refused (``syscall`` under Yama, ``wchan`` in some containers) or gone."""
    try:
        return read_file(path)
    except OSError:
        return None
