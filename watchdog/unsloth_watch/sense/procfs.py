"""One look at a process: ``/proc/PID/stat``, ``io`` and ``status`` as a ProcessSample.

Descriptors are kept open and read again from the start. That is cheaper than opening anew (stat 4 instead of 7.5 µs, io 2 µs,
status 8 µs on Linux 6.18), and an open ``/proc/PID`` file belongs to that very process for ever: after its end a read fails with
ESRCH even when the PID has gone to somebody else.

Whether a thread was on a CPU at all stands in ``schedstat``, for 1.5 µs: its third number counts how often it was given one. A
process of one thread that was not has changed none of its counters, and its last sample stands.
"""

from __future__ import annotations

import os

import msgspec

from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.sense.stat import Stat, descriptor_share, read_once

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MOST_THREADS = 64
"""Processes with more threads than this get their thread states rarely: a task costs 8 µs."""
STATES_EVERY = 4
"""Thread states of a process with 2 to ``MOST_THREADS`` threads are read every so many ticks."""
STATES_RARELY = 32
"""The same for processes with more threads, of which the first ``MOST_THREADS`` · 8 are read, and for those that used no CPU since:
nobody in them wanted to run."""
DETAILS_EVERY = 4
"""Ticks from one turn of a process to the next: then all is read, whether or not it did anything."""
DETAILS_RARELY = 16
"""The same in a job of more than ``FULL_DETAIL`` processes; those whose ``stat`` or ``io`` has changed wait ``DETAILS_EVERY``."""
FULL_DETAIL = 128
"""Up to so many processes ``io`` is read every tick, ``status`` where it or the stat line has changed; beyond, in turns alone."""
_NO_MARK = b"0 0 0\n"
_IO_FIELDS = [b"rchar:", b"wchar:", b"syscr:", b"syscw:", b"read_bytes:", b"write_bytes:"]


class _Kept:
    """Descriptors of one process, opened when first needed; -1 where one is not open, or refused. And what was read last."""

    __slots__ = (
        "counters",
        "io",
        "is_detailed",
        "line",
        "looked_at",
        "mark",
        "pid",
        "runs",
        "sample",
        "stat",
        "status",
        "stays_open",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stays_open = False
        self.stat = self.io = self.status = -1
        self.runs: int | None = None
        self.line = self.counters = self.mark = b""
        self.is_detailed = False
        self.looked_at: tuple[bytes, bytes] | None = None
        self.sample: ProcessSample | None = None

    def read_line(self) -> bytes:
        """Return the text of ``/proc/PID/stat``.

        Raises:
            FileNotFoundError, ProcessLookupError: The process is gone.
        """
        if self.stat < 0:
            self.stat = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self.stat, 2048, 0)

    def read_counters(self) -> bytes:
        """Return the text of ``/proc/PID/io``, empty where this user may not read it (another uid, a set-uid program).

        Opens what is not open yet, ``status`` included.

        Raises:
            ProcessLookupError: The process is gone.
        """
        if self.io < 0:
            self.io = _open_or_refused(f"/proc/{self.pid}/io")
        if self.status < 0:
            self.status = _open_or_refused(f"/proc/{self.pid}/status")
        try:
            return os.pread(self.io, 512, 0) if self.io >= 0 else b""
        except ProcessLookupError:
            raise
        except OSError:
            return b""

    def read_mark(self) -> bytes:
        """Return what changes whenever the only thread of this process gets a CPU; empty where that is not known.

        Not known of several threads, of one that runs or waits for a CPU, at the first look, and to kernels without
        ``CONFIG_SCHED_INFO``, which leave the file out or print zeros.

        Raises:
            ProcessLookupError: The process is gone.
        """
        if self.sample is None or self.sample.threads != 1 or self.sample.state == "R":
            return b""
        if self.runs is None:
            self.runs = _open_or_refused(f"/proc/{self.pid}/schedstat")
        mark = os.pread(self.runs, 128, 0) if self.runs >= 0 else b""
        return b"" if mark == _NO_MARK else mark

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self.stat, self.io, self.status, self.runs):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self.stat = self.io = self.status = -1
        self.runs = None


def _open_or_refused(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


class ProcessReader:
    """Reads processes, tick by tick.

    Dear things are read in turns. Thread states cost 8 µs a thread: a process with one thread always has them, one with up to
    ``MOST_THREADS`` every ``STATES_EVERY`` ticks, one with more or without any CPU since every ``STATES_RARELY``; in the other
    ticks they are None, which means "not looked", as everywhere. ``status`` of a process whose lines are the same as before waits
    for its turn: it slept on, or woke for less than can be seen. Of one whose only thread got no CPU since, nothing is read between
    its turns. In a job of more than ``FULL_DETAIL`` processes ``io`` and ``status`` have turns alone; as counters only grow, the
    other ticks repeat what was read last.

    Args:
        most_kept: Processes whose descriptors may stay open; those of the rest are opened anew each time. None: a quarter of the
            soft limit of open files, four a process.
    """

    def __init__(self, most_kept: int | None = None) -> None:
        self._kept: dict[ProcessRef, _Kept] = {}
        self._most_kept = descriptor_share(0.25) // 4 if most_kept is None else most_kept
        self._open = 0
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
            kept = self._kept.pop(ref)
            self._open -= kept.stays_open
            kept.close()
        is_small = len(refs) <= FULL_DETAIL
        known = has_gpu or {}
        samples = []
        for ref in refs:
            turn = self._tick + ref.pid
            is_detailed = is_small or turn % DETAILS_EVERY == 0
            is_due = turn % (DETAILS_EVERY if is_small else DETAILS_RARELY) == 0
            sample = self.read(ref, has_gpu=known.get(ref.pid), is_detailed=is_detailed, is_due=is_due)
            if sample is not None:
                samples.append(sample)
        return tuple(samples)

    def read(
        self, ref: ProcessRef, *, has_gpu: bool | None = None, is_detailed: bool = True, is_due: bool = True
    ) -> ProcessSample | None:
        """Return what /proc says of one process, or None where that process (not merely that PID) is gone.

        Args:
            ref: Whom to read.
            has_gpu: Passed through.
            is_detailed: Whether ``io`` and ``status`` are read too; else they are as last read; a newcomer's are.
            is_due: Whether they are all read where ``stat`` and ``io`` are the same as before, too.

        Raises:
            OSError: /proc itself cannot be read.
        """
        kept = self._kept.get(ref)
        try:
            if kept is None:
                kept = _Kept(ref.pid)
            # A newcomer's counters are read whoever's turn it is: unread, they would count as hidden.
            is_detailed = is_detailed or kept.sample is None
            # Before the rest: who wakes meanwhile has another mark the next time.
            mark = kept.read_mark()
            has_slept = mark != b"" and mark == kept.mark and (kept.is_detailed or not is_detailed)
            if has_slept and not is_due and kept.sample is not None and kept.sample.has_gpu == has_gpu:
                return kept.sample
            line = kept.read_line()
            counters = kept.read_counters() if is_detailed else kept.counters
            is_same = line == kept.line and counters == kept.counters and kept.sample is not None and kept.sample.has_gpu == has_gpu
            if is_same and not (is_detailed and is_due):
                kept.mark, kept.is_detailed = mark, kept.is_detailed or is_detailed
                return kept.sample
            stat = Stat(line)
            if stat.start_ticks != ref.start_ticks:
                return None
            if ref not in self._kept:
                self._kept[ref] = kept
                kept.stays_open = self._open < self._most_kept
                self._open += kept.stays_open
            sample = self._read_more(ref, stat, kept, has_gpu, counters if is_detailed else None)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        finally:
            if kept is not None and not kept.stays_open:
                kept.close()
        kept.line, kept.counters, kept.mark, kept.is_detailed = line, counters, mark, is_detailed
        # The states of several threads are news once: what is repeated did not look at them.
        kept.sample = sample if sample.threads <= 1 else msgspec.structs.replace(sample, thread_states=None)
        return sample

    def _read_more(self, ref: ProcessRef, stat: Stat, kept: _Kept, has_gpu: bool | None, counters: bytes | None) -> ProcessSample:
        """Return the sample of a process whose stat line was read, with the text of ``io`` where its details are wanted.

        Raises:
            ProcessLookupError: It is gone meanwhile.
        """
        fields = stat.fields
        threads = int(fields[17])
        last = kept.sample
        if counters is not None:
            rchar, wchar, syscr, syscw, read_bytes, write_bytes = _parse_counters(counters)
            vctx, nvctx = _read_switches(kept.status)
        elif last is not None:
            rchar, wchar, syscr, syscw = last.rchar, last.wchar, last.syscr, last.syscw
            read_bytes, write_bytes, vctx, nvctx = last.read_bytes, last.write_bytes, last.vctx, last.nvctx
        else:
            rchar = wchar = syscr = syscw = read_bytes = write_bytes = vctx = nvctx = None
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
            thread_states=self._thread_states(ref.pid, threads, stat, kept),
            vctx=vctx,
            nvctx=nvctx,
            rchar=rchar,
            wchar=wchar,
            syscr=syscr,
            syscw=syscw,
            read_bytes=read_bytes,
            write_bytes=write_bytes,
            has_gpu=has_gpu,
        )

    def _thread_states(self, pid: int, threads: int, stat: Stat, kept: _Kept) -> dict[str, int] | None:
        """Return the threads by state letter where it is this process's turn."""
        if threads <= 1:
            return {stat.state: 1}
        used = stat.fields[11], stat.fields[12]
        is_rare = threads > MOST_THREADS or used == kept.looked_at
        if (self._tick + pid) % (STATES_RARELY if is_rare else STATES_EVERY):
            return None
        kept.looked_at = used
        return read_thread_states(pid, MOST_THREADS * 8)

    def close(self) -> None:
        """Give all descriptors back."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
        self._open = 0


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


def _parse_counters(text: bytes) -> tuple[int | None, ...]:
    """Return the six counters of ``/proc/PID/io``, all None where there is no text."""
    words = text.split()
    # ``rchar: 1 wchar: 2 …``: in this order since 2.6.20, looked up by name all the same where a kernel thinks otherwise.
    if words[:12:2] == _IO_FIELDS:
        return tuple(map(int, words[1:12:2]))
    values = dict(zip(words[::2], words[1::2], strict=False))
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
