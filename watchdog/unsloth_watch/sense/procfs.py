"""One look at a process: ``/proc/PID/stat``, ``io`` and ``status`` as a ProcessSample.

Descriptors are kept open and read again from the start. That is cheaper than opening anew (stat 4 instead of 7.5 µs, io 2 µs,
status 8 µs on Linux 6.18), and an open ``/proc/PID`` file belongs to that very process for ever: after its end a read fails with
ESRCH even when the PID has gone to somebody else.
"""

from __future__ import annotations

import os
import resource

from unsloth_watch.model.process import ProcessRef, ProcessSample

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MOST_THREADS = 64
"""Processes with more threads than this get their thread states rarely: a task costs 8 µs."""
STATES_EVERY = 4
"""Thread states of a process with 2 to ``MOST_THREADS`` threads are read every so many ticks, others' ticks in between."""
STATES_RARELY = 32
"""The same for processes with more threads, of which the first ``MOST_THREADS`` · 8 are read."""
FULL_DETAIL = 64
"""Up to so many processes ``status`` is read every tick; beyond, a process's turn comes every ``STATES_EVERY`` ticks."""
_IO_FIELDS = (b"rchar", b"wchar", b"syscr", b"syscw", b"read_bytes", b"write_bytes")


class Stat:
    """The fields of one line of ``/proc/PID/stat``; the line is cut at its *last* parenthesis, as a name may hold any byte.

    Attributes:
        pid: Process or thread id.
        comm: Short name, undecodable bytes replaced.
        state: State letter.
        ppid: Parent's PID.
        start_ticks: Start time, clock ticks since boot.
        fields: The raw fields from the state on (number 3 of proc(5) is index 0).
    """

    __slots__ = ("comm", "fields", "pid", "ppid", "start_ticks", "state")

    def __init__(self, line: bytes) -> None:
        end = line.rindex(b")")
        start = line.index(b"(")
        self.pid = int(line[:start])
        self.comm = line[start + 1 : end].decode("utf-8", "replace")
        self.fields = line[end + 2 :].split()
        self.state = self.fields[0].decode("ascii", "replace")
        self.ppid = int(self.fields[1])
        self.start_ticks = int(self.fields[19])


def read_stat(pid: int) -> Stat | None:
    """Return the stat line of a process, or None where there is no such process for this user (``hidepid`` refuses others').

    Raises:
        OSError: /proc itself cannot be read.
    """
    try:
        return Stat(read_once(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def read_once(path: str, size: int = 4096) -> bytes:
    """Return the first ``size`` bytes of a /proc file with three system calls (``open()`` makes seven)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def descriptor_share(part: float) -> int:
    """Return how many descriptors a sensor may keep open: a part of the soft limit, at most 1024, so that no other sense starves."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1024 if limit == resource.RLIM_INFINITY else int(min(1024.0, limit * part))


class _Kept:
    """Kept descriptors of one process: stat, and the two that may be refused (-1 where they are)."""

    __slots__ = ("io", "stat", "status")

    def __init__(self, pid: int) -> None:
        self.stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self.io = _open_or_refused(f"/proc/{pid}/io")
        self.status = _open_or_refused(f"/proc/{pid}/status")

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self.stat, self.io, self.status):
            if descriptor >= 0:
                os.close(descriptor)


def _open_or_refused(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


class ProcessReader:
    """Reads processes, tick by tick.

    Thread states cost 8 µs a thread, so they are read in turns: a process with one thread always has them; one with up to
    ``MOST_THREADS`` every ``STATES_EVERY`` ticks; one with more every ``STATES_RARELY``. In the other ticks they are None, which
    means "not looked", as everywhere.

    Args:
        most_kept: Processes whose descriptors may stay open; the rest is opened anew each time. None: a quarter of the soft limit
            of open files, three a process.
    """

    def __init__(self, most_kept: int | None = None) -> None:
        self._kept: dict[ProcessRef, _Kept] = {}
        self._most_kept = descriptor_share(0.25) // 3 if most_kept is None else most_kept
        self._tick = 0

    def read_all(self, refs: tuple[ProcessRef, ...], has_gpu: dict[int, bool] | None = None) -> tuple[ProcessSample, ...]:
        """Return a sample of each process that is still there, as one tick; forget those no longer asked for.

        Args:
            refs: Whom to read.
            has_gpu: Whether a process holds a GPU device file, by PID, where known.
        """
        self._tick += 1
        wanted = set(refs)
        for ref in [ref for ref in self._kept if ref not in wanted]:
            self._kept.pop(ref).close()
        is_small = len(refs) <= FULL_DETAIL
        known = has_gpu or {}
        samples = []
        for ref in refs:
            is_turn = is_small or (self._tick + ref.pid) % STATES_EVERY == 0
            sample = self.read(ref, has_gpu=known.get(ref.pid), is_detailed=is_turn)
            if sample is not None:
                samples.append(sample)
        return tuple(samples)

    def read(self, ref: ProcessRef, *, has_gpu: bool | None = None, is_detailed: bool = True) -> ProcessSample | None:
        """Return what /proc says of one process, or None where that process (not merely that PID) is gone.

        Args:
            ref: Whom to read.
            has_gpu: Passed through.
            is_detailed: Whether ``status`` (context switches) is read too.

        Raises:
            OSError: /proc itself cannot be read.
        """
        kept = self._kept.get(ref)
        is_kept = kept is not None
        try:
            if kept is None:
                kept = _Kept(ref.pid)
            stat = Stat(os.pread(kept.stat, 2048, 0))
            if stat.start_ticks != ref.start_ticks:
                return None
            if not is_kept and len(self._kept) < self._most_kept:
                self._kept[ref] = kept
                is_kept = True
            io = _read_io(kept.io)
            switches = _read_switches(kept.status) if is_detailed else (None, None)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        finally:
            if kept is not None and not is_kept:
                kept.close()
        fields = stat.fields
        threads = int(fields[17])
        return ProcessSample(
            ref=ref,
            ppid=stat.ppid,
            comm=stat.comm,
            state=stat.state,
            utime_s=int(fields[11]) / TICKS_PER_S,
            stime_s=int(fields[12]) / TICKS_PER_S,
            reaped_cpu_s=(int(fields[13]) + int(fields[14])) / TICKS_PER_S,
            minflt=int(fields[7]),
            reaped_minflt=int(fields[8]),
            majflt=int(fields[9]),
            threads=threads,
            rss_bytes=int(fields[21]) * PAGE_BYTES,
            thread_states=self._thread_states(ref.pid, threads, stat.state),
            vctx=switches[0],
            nvctx=switches[1],
            rchar=io[0],
            wchar=io[1],
            syscr=io[2],
            syscw=io[3],
            read_bytes=io[4],
            write_bytes=io[5],
            has_gpu=has_gpu,
        )

    def _thread_states(self, pid: int, threads: int, state: str) -> dict[str, int] | None:
        """Return the threads by state letter where it is this process's turn."""
        if threads <= 1:
            return {state: 1}
        if (self._tick + pid) % (STATES_EVERY if threads <= MOST_THREADS else STATES_RARELY):
            return None
        return read_thread_states(pid, MOST_THREADS * 8)

    def close(self) -> None:
        """Give all descriptors back."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()


def read_thread_states(pid: int, most: int) -> dict[str, int] | None:
    """Return the threads of a process by state letter, at most ``most`` of them; None where it is gone or unreadable."""
    states: dict[str, int] = {}
    try:
        for tid in os.listdir(f"/proc/{pid}/task")[:most]:
            try:
                line = read_once(f"/proc/{pid}/task/{tid}/stat", 512)
            except (FileNotFoundError, ProcessLookupError):
                continue
            letter = line[line.rindex(b")") + 2 :][:1].decode("ascii", "replace")
            states[letter] = states.get(letter, 0) + 1
    except OSError:
        return None
    return states or None


def _read_io(descriptor: int) -> tuple[int | None, ...]:
    """Return the six counters of ``/proc/PID/io``, all None where this user may not read them (another uid, a set-uid program)."""
    if descriptor < 0:
        return (None,) * 6
    try:
        lines = os.pread(descriptor, 512, 0).split(b"\n")
    except ProcessLookupError:
        raise
    except OSError:
        return (None,) * 6
    values = dict(line.split(b": ", 1) for line in lines if b": " in line)
    return tuple(int(values[name]) if name in values else None for name in _IO_FIELDS)


def _read_switches(descriptor: int) -> tuple[int | None, int | None]:
    """Return voluntary and involuntary context switches of the main thread."""
    if descriptor < 0:
        return None, None
    try:
        text = os.pread(descriptor, 8192, 0)
    except ProcessLookupError:
        raise
    except OSError:
        return None, None
    at = text.find(b"\nvoluntary_ctxt_switches:")
    if at < 0:
        return None, None
    words = text[at:].split()
    return int(words[1]), int(words[3])
