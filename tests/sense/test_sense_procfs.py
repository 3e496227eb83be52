"""One look at a process, with real processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.sense.procfs import DETAILS_EVERY, STATES_EVERY, STATES_RARELY, ProcessReader
from unsloth_watch.sense.stat import Stat, read_stat
from waiting import until

IDLE = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def reader():
    made = ProcessReader()
    yield made
    made.close()


@pytest.mark.quick
@given(st.binary(max_size=15))
def test_a_name_of_any_bytes_leaves_the_fields_in_place(name):
    stat = Stat(b"41 (" + name + b") S 7 " + b" ".join(b"%d" % number for number in range(5, 53)) + b"\n")
    assert (stat.pid, stat.state, stat.ppid, stat.start_ticks) == (41, "S", 7, 22)
    assert stat.comm == name.decode("utf-8", "replace")


def test_a_process_named_with_parentheses_and_a_newline_is_read_as_psutil_reads_it(start, reader, ref_of):
    child = start("open('/proc/self/comm', 'wb').write(b'a) S 1\\n(\\xff b'); " + IDLE)
    ref, known = ref_of(child.pid), psutil.Process(child.pid)

    def agree():
        # It said "ready" a moment before it went to sleep: read until nothing moves between our look and psutil's.
        sample, io, switches = reader.read(ref), known.io_counters(), known.num_ctx_switches()
        is_same = (sample.rchar, sample.syscr, sample.wchar) == (io.read_chars, io.read_count, io.write_chars)
        return sample if is_same and sample.state == "S" and (sample.vctx, sample.nvctx) == tuple(switches) else None

    sample = until(agree)
    assert sample.comm == "a) S 1\n(\ufffd b"
    assert (sample.state, sample.ppid, sample.threads) == ("S", os.getpid(), known.num_threads())
    # The kernel adds up per-CPU counters with a slack of some pages, in stat otherwise than in statm.
    assert abs(sample.rss_bytes - known.memory_info().rss) < 1 << 20
    assert sample.thread_states == {"S": 1}


def test_work_shows_in_the_counters(start, reader, ref_of):
    child = start(
        "import sys, os\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "data = b'x' * 4_000_000\nos.write(os.open('/dev/null', os.O_WRONLY), data)\n"
        "if os.fork() == 0:\n    sum(range(3_000_000)); os._exit(0)\n"
        "os.wait(); sum(range(3_000_000)); print('done', flush=True); sys.stdin.read()"
    )
    ref = ref_of(child.pid)
    before = reader.read(ref)
    child.stdin.write("go\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"
    after = reader.read(ref)
    assert after.cpu_s > before.cpu_s
    assert after.reaped_cpu_s > before.reaped_cpu_s == 0
    assert after.reaped_minflt > before.reaped_minflt == 0
    assert after.minflt - before.minflt > 900
    assert after.wchar - before.wchar >= 4_000_000
    assert after.syscw > before.syscw


def test_a_process_that_vanishes_between_two_reads_is_none_and_its_descriptors_are_given_back(start, reader, ref_of):
    child = start(IDLE)
    ref = ref_of(child.pid)
    open_before = len(os.listdir("/proc/self/fd"))
    assert len(reader.read_all((ref,))) == 1
    child.kill()
    child.wait()
    assert reader.read(ref) is None
    assert reader.read_all(()) == ()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_zombie_is_read_as_one(start, reader, ref_of):
    child = start(IDLE)
    ref = ref_of(child.pid)
    child.kill()
    assert until(lambda: (seen := reader.read(ref)) and seen.state == "Z")


def test_another_process_under_the_same_pid_is_not_taken_for_the_first(start, reader, ref_of):
    child = start(IDLE)
    ref = ref_of(child.pid)
    assert reader.read(msgspec.structs.replace(ref, start_ticks=ref.start_ticks - 1)) is None
    assert reader.read(ref) is not None


def test_without_kept_descriptors_the_same_is_read(start, ref_of):
    child = start(IDLE)
    ref = ref_of(child.pid)
    keeping, forgetting = ProcessReader(), ProcessReader(most_kept=0)
    open_before = len(os.listdir("/proc/self/fd"))
    one = forgetting.read(ref)
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert one == keeping.read(ref)
    keeping.close()


THREADED = "import threading, sys\nfor _ in range(4): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"


def test_thread_states_of_a_threaded_process_that_rests_come_now_and_then(start, reader, ref_of):
    ref = ref_of(start(THREADED + IDLE).pid)
    states = [reader.read_all((ref,))[0].thread_states for _ in range(2 * STATES_RARELY)]
    seen = [sum(one.values()) for one in states if one is not None]
    assert seen == [5] * len(seen)
    assert 2 <= len(seen) <= 3


def test_thread_states_of_a_threaded_process_that_computes_come_every_few_ticks(start, reader, ref_of):
    code = "print('ready', flush=True)\nfor line in sys.stdin:\n    end = time.thread_time() + 0.05\n"
    child = start(f"import time\n{THREADED}{code}    while time.thread_time() < end: pass\n    print('done', flush=True)")
    ref = ref_of(child.pid)
    seen = []
    for _ in range(2 * STATES_EVERY):
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        seen.append(reader.read_all((ref,))[0].thread_states)
    assert [sum(one.values()) for one in seen if one is not None] == [5, 5]


def test_a_process_that_does_nothing_is_the_same_sample_until_its_turn(start, reader, ref_of):
    ref = ref_of(start(IDLE).pid)
    samples = [reader.read_all((ref,))[0] for _ in range(2 * DETAILS_EVERY)]
    assert len({id(sample) for sample in samples}) <= 3
    assert len(set(map(repr, samples))) == 1


def test_reads_that_take_no_time_show_at_once(start, reader, ref_of):
    child = start("import os, sys\nprint('ready', flush=True)\nwhile line := os.read(0, 100): os.write(1, b'done\\n')")
    ref = ref_of(child.pid)
    counts = []
    for _ in range(2 * DETAILS_EVERY):
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        counts.append(reader.read_all((ref,))[0].wchar)
    assert [after - before for before, after in itertools.pairwise(counts)] == [5] * (len(counts) - 1)


def test_one_who_is_stopped_and_goes_on_is_seen_to_at_once(start, reader, ref_of):
    ref = ref_of(start(IDLE).pid)
    until(lambda: read_stat(ref.pid).state == "S")
    for _ in range(DETAILS_EVERY):
        reader.read_all((ref,))
    for _ in range(DETAILS_EVERY):
        for signum, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            os.kill(ref.pid, signum)
            until(lambda state=state: read_stat(ref.pid).state == state)
            assert reader.read_all((ref,))[0].state == state


def test_threads_of_one_that_had_a_single_one_are_seen_at_once(start, reader, ref_of):
    child = start(
        "import sys, threading\nprint('ready', flush=True)\n"
        "for line in sys.stdin: threading.Thread(target=threading.Event().wait, daemon=True).start(); print('done', flush=True)"
    )
    ref = ref_of(child.pid)
    for _ in range(2 * DETAILS_EVERY):
        assert reader.read_all((ref,))[0].threads == 1
    child.stdin.write("go\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"
    assert reader.read_all((ref,))[0].threads == 2


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user: run the tests as root once")
@pytest.mark.parametrize("before", ["", "reader.read(ref)"], ids=["opened after", "opened before"])
def test_io_of_another_user_is_none_and_the_rest_is_known(start, ref_of, before):
    child = start(IDLE)
    ref = ref_of(child.pid)
    code = (
        "import sys, os, msgspec\nfrom unsloth_watch.model.process import ProcessRef\n"
        "from unsloth_watch.sense.procfs import ProcessReader\n"
        f"reader, ref = ProcessReader(), ProcessRef(int(sys.argv[1]), int(sys.argv[2]))\n{before}\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.stdout.buffer.write(msgspec.json.encode(reader.read(ref)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ref.pid), str(ref.start_ticks)], capture_output=True, check=True)
    seen = msgspec.json.decode(done.stdout)
    assert seen["comm"].startswith("python")
    assert seen["vctx"] > 0
    assert not {"rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes"} & set(seen)


@pytest.mark.quick
def test_a_pid_that_nobody_has_is_none():
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert read_stat(most + 1) is None
    assert ProcessReader().read(ProcessRef(most + 1, 1)) is None


@pytest.mark.parametrize("most_kept", [0, 10])
def test_in_a_large_job_counters_come_in_turns_and_are_repeated_between(start, ref_of, most_kept):
    reader = ProcessReader(most_kept=most_kept)
    child = start(
        "import sys, os\nprint('ready', flush=True)\nfor line in sys.stdin: bytearray(8_000_000); os.write(1, b'done' * 500 + b'\\n')"
    )
    ref = ref_of(child.pid)
    open_before = len(os.listdir("/proc/self/fd"))
    first = reader.read(ref, is_detailed=False)  # a newcomer's are read at once
    assert first.wchar is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    child.stdout.readline()
    between = reader.read(ref, is_detailed=False)
    assert between.minflt > first.minflt
    assert between.wchar == first.wchar
    assert reader.read(ref).wchar - first.wchar == 2001
    assert (len(os.listdir("/proc/self/fd")) > open_before) is (most_kept > 0)
    reader.close()
