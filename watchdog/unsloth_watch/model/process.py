"""A process: its identity, and what one look at /proc says of it."""

from __future__ import annotations

import msgspec


class ProcessRef(msgspec.Struct, frozen=True, order=True):
    """Identity of a process: a bare PID may be reused, PID and start time together are not.

    Attributes:
        pid: Process id in the supervisor's PID namespace.
        start_ticks: Start time in clock ticks since boot (field 22 of ``/proc/PID/stat``).
    """

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return str(self.pid)


class ProcessSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one tick read of one process. Counters are totals since its start; ``None`` means unreadable, never zero.

    Attributes:
        ref: Identity.
        ppid: Parent's PID.
        comm: Executable's short name (at most 15 bytes in the kernel).
        state: State letter of the main thread: R, S, D, T, t, Z, X or I.
        utime_s: User CPU, seconds, all threads.
        stime_s: System CPU, seconds, all threads.
        reaped_cpu_s: CPU seconds of children that ended and were waited for (cutime + cstime).
        minflt: Minor page faults of its own.
        majflt: Major page faults of its own.
        reaped_minflt: Minor faults of children that ended; a change says that a child was reaped.
        threads: Number of threads.
        rss_bytes: Resident set, bytes.
        thread_states: Threads by state letter.
        vctx: Voluntary context switches of the main thread.
        nvctx: Involuntary context switches of the main thread.
        rchar: Bytes through read(2) and its kin, page cache included.
        wchar: Bytes through write(2) and its kin.
        syscr: Number of read calls.
        syscw: Number of write calls.
        read_bytes: Bytes fetched from storage.
        write_bytes: Bytes sent to storage (dirtied pages).
        has_gpu: Whether it holds a GPU device file open.
    """

    ref: ProcessRef
    ppid: int
    comm: str
    state: str
    utime_s: float
    stime_s: float
    reaped_cpu_s: float
    minflt: int
    majflt: int
    reaped_minflt: int
    threads: int
    rss_bytes: int
    thread_states: dict[str, int] | None = None
    vctx: int | None = None
    nvctx: int | None = None
    rchar: int | None = None
    wchar: int | None = None
    syscr: int | None = None
    syscw: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    has_gpu: bool | None = None

    @property
    def cpu_s(self) -> float:
        """CPU seconds of its own threads, user and system."""
        return self.utime_s + self.stime_s
