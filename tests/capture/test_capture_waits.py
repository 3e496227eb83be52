"""Real waits: what /proc, py-spy and the phrase say of each, and that looking changes nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.phrase import Scene, describe_wait
from unsloth_watch.capture.syscalls import TABLES, name_syscall
from unsloth_watch.capture.waits import Task, parse_stat, parse_syscall, read_file, read_states
from unsloth_watch.model.evidence import ProcessEvidence

SLEEP = (
    ("clock_nanosleep", " s left (clock_nanosleep)") if sys.version_info >= (3, 11) else ("pselect6", "sleeps for 500 s (pselect6)")
)
# What Python's time.sleep is, with a C library of 2.34 and later.
CASES = {
    "lock": (
        "import threading; l = threading.Lock(); l.acquire(); print('ready'); l.acquire()",
        "futex",
        "futex wait, no timeout",
        "",
    ),
    "queue": ("import queue; print('ready'); queue.Queue().get()", "futex", "futex wait, no timeout", "get"),
    "timed lock": (
        "import threading; e = threading.Event(); print('ready'); e.wait(500)",
        "futex",
        "futex wait, with a timeout",
        "wait",
    ),
    "sleep": ("import time; print('ready'); time.sleep(500)", *SLEEP, ""),
    "stdin": ("print('ready'); input()", "read", "reads from fd 0 → pipe:[", ""),
    "pipe read": ("import os; r, w = os.pipe(); print('ready'); os.read(r, 1)", "read", "reads from fd 3 → pipe:[", ""),
    "pipe write": (
        "import os; r, w = os.pipe(); print('ready'); os.write(w, bytes(1 << 20))",
        "write",
        "writes to fd 4 → pipe:[",
        "",
    ),
    "recv": (
        "import socket; a, b = socket.socketpair(); print('ready'); a.recv(1)",
        "recvfrom",
        "receives from fd 3 → socket:[",
        "",
    ),
    "accept": (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print('ready'); s.accept()",
        "accept4",
        "accepts a connection on fd 3 → socket:[",
        "accept",
    ),
    "waitpid": (
        "import subprocess; p = subprocess.Popen(['sleep', '500']); print('ready'); p.wait()",
        "wait4",
        "waits for PID {child} to end",
        "wait",
    ),
    "select": (
        "import os, select; r, w = os.pipe(); print('ready'); select.select([r], [], [], 500)",
        "pselect6",
        "selects on fd 3 → pipe:[",
        "",
    ),
    "poll": (
        "import os, select; r, w = os.pipe(); p = select.poll(); p.register(r, 1); print('ready'); p.poll()",
        "poll",
        ", no timeout",
        "",
    ),
    "epoll": (
        "import os, select; r, w = os.pipe(); p = select.epoll(); p.register(r, 1); print('ready'); p.poll()",
        "epoll_wait",
        "epoll wait on fd 5 for fd 3 → pipe:[",
        "",
    ),
    "asyncio": ("import asyncio; print('ready'); asyncio.run(asyncio.Event().wait())", "epoll_wait", ", no timeout", "run_forever"),
}


def look_at(target) -> ProcessEvidence:
    start = time.monotonic()
    evidence = capture([target.ref], target.ref, at=start, clock=time.monotonic)
    assert len(evidence.processes) == 1, evidence.missing
    return evidence.processes[0]


@pytest.mark.parametrize("name", CASES)
def test_a_blocked_main_thread_is_told_by_its_call_its_phrase_and_its_stack(start, name):
    program, call, phrase, function = CASES[name]
    target = start(program)
    target.await_call(call)
    before = read_states(target.pid)
    process = look_at(target)
    assert read_states(target.pid) == before, "looking changed the target"
    main = process.main_thread
    assert main is not None
    children = read_file(f"/proc/{target.pid}/task/{target.pid}/children").decode().split()
    assert main.call == call
    assert phrase.format(child=(children or ["-"])[0]) in (main.wait or "")
    assert main.state == "S"
    assert main.syscall is not None
    assert main.syscall >= 0
    names = [frame.function.rpartition(".")[2] for frame in main.frames if not frame.is_native]
    assert "<module>" in names
    assert function in ("", *names)
    assert not process.missing
    assert process.python_version == f"{sys.version_info.major}.{sys.version_info.minor}"
    if call in ("write", "recvfrom", "accept4", "epoll_wait"):  # a pause would make it return early
        assert process.stack_method == "nonblocking"
        assert f"cut the {call}" in process.notes[0]
        return
    assert process.stack_method == "native"
    assert any(frame.is_native and frame.line == 0 and ".so" in frame.file for frame in main.frames)


BUSY = {
    "with the interpreter lock": ("import re; print('ready'); re.match('(a+)+$', 'a' * 60 + 'b')", True),
    "without it": ("import hashlib; print('ready'); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 1 << 30)", False),
}


@pytest.mark.parametrize("name", BUSY)
def test_a_busy_loop_in_c_is_captured_with_and_without_the_interpreter_lock(start, name):
    program, has_gil = BUSY[name]
    target = start(program)
    target.await_state("R")
    main = look_at(target).main_thread
    assert main is not None
    assert main.wait is None
    assert main.call is None
    assert main.frames[-1].function in {"<module>", "_start"} or any(frame.function == "<module>" for frame in main.frames)
    assert main.has_gil is has_gil


def test_the_wait_of_a_side_thread_is_not_hidden_by_the_main_thread(start):
    target = start(
        "import threading, time, os\nr, w = os.pipe()\n"
        "threading.Thread(target=os.read, args=(r, 1), name='reader').start()\nprint('ready')\ntime.sleep(500)"
    )
    target.await_call("read")
    process = look_at(target)
    reader = next(thread for thread in process.threads if thread.name == "reader")
    assert process.threads[0].is_main
    assert not reader.is_main
    assert reader.wait_fds == (3,)
    assert reader.vctx is not None
    assert reader.cpu_s is not None


def test_a_socket_is_named_by_both_its_ends(start):
    target = start(
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(s.getsockname())\n"
        "print('ready')\nprint(*s.getsockname())\nc.recv(1)"
    )
    host, port = target.line().split()
    target.await_call("recvfrom")
    process = look_at(target)
    main = process.main_thread
    assert main is not None
    peer = next(item.peer for item in process.descriptors or () if item.fd == main.wait_fds[0])
    assert peer is not None
    assert f"→ {host}:{port} ESTABLISHED" in peer


@pytest.mark.quick
def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields():
    raw = b"7 (a) R (b) S 3 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 987 1 2"
    stat = parse_stat(raw)
    assert stat is not None
    assert (stat.comm, stat.state, stat.ppid, stat.start_ticks) == ("a) R (b", "S", 3, 987)
    assert stat.cpu_s == 300 / os.sysconf("SC_CLK_TCK")


@pytest.mark.quick
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parsers_of_proc(raw):
    parse_stat(raw)
    number, args, pointer = parse_syscall(raw)
    assert number is None or (isinstance(args, tuple) and pointer is not None)


@pytest.mark.quick
def test_running_is_no_call_and_minus_one_is_none():
    assert parse_syscall(b"running\n") == (None, (), None)
    assert parse_syscall(b"-1 0x7ffe 0x7f00\n") == (-1, (), 0x7FFE)
    assert parse_syscall(b"0 0x3 0x1 0x2 0x0 0x0 0x0 0x7ffe 0x7f00") == (0, (3, 1, 2, 0, 0, 0), 0x7FFE)
    assert name_syscall(-1) is None
    assert name_syscall(None) is None


PHRASES = [
    ("aarch64", 98, (1, 0x80, 0, 0, 0, 0), "futex wait, no timeout"),
    ("aarch64", 32, (7, 2, 0, 0, 0, 0), "waits for the flock on fd 7 → /a.lock"),
    ("aarch64", 63, (0, 0, 1, 0, 0, 0), "reads from fd 0 → ? (standard input)"),
    ("x86_64", 72, (7, 7, 0, 0, 0, 0), "waits for the fcntl lock on fd 7 → /a.lock"),
    ("x86_64", 202, (1, 0x189, 0, 5, 0, 0), "futex wait, with a timeout"),
    ("x86_64", 202, (1, 0x189, 0, 0, 0, 0), "futex wait, no timeout"),
    ("x86_64", 7, (0, 0, 0xFFFFFFFF, 0, 0, 0), "polls no descriptor, no timeout"),
    ("x86_64", 7, (0, 0, 1500, 0, 0, 0), "sleeps for 1.5 s (poll)"),
    ("x86_64", 23, (0, 0, 0, 0, 1, 0), "sleeps (select)"),
    ("x86_64", 270, (0, 0, 0, 0, 1, 0), "sleeps (pselect6)"),
    ("x86_64", 270, (0, 0, 0, 0, 0, 0), "selects on no descriptor, no timeout"),
    ("x86_64", 61, (12, 0, 0, 0, 0, 0), "waits for PID 12 to end"),
    ("x86_64", 61, (0xFFFFFFFFFFFFFFFF, 0, 0, 0, 0, 0), "waits for any child to end"),
    ("x86_64", 247, (1, 12, 0, 4, 0, 0), "waits for PID 12 to end"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("machine", "number", "args", "phrase"), PHRASES)
def test_a_call_reads_as_a_phrase_on_either_machine(machine, number, args, phrase):
    task = Task(1, "x", "S", 0.0, syscall=number, args=args)
    wait = describe_wait(task, Scene(os.getpid(), {7: "/a.lock"}), machine)
    assert wait is not None
    assert wait.phrase == phrase


@pytest.mark.quick
@pytest.mark.parametrize(
    ("number", "pause", "phrase"),
    [
        (23, (2, 500_000), "sleeps for 2.5 s (select)"),  # a timeval
        (270, (2, 500_000_000), "sleeps for 2.5 s (pselect6)"),  # a timespec
    ],
)
def test_a_select_without_descriptors_is_a_sleep(number, pause, phrase):
    memory = (ctypes.c_int64 * 2)(*pause)
    task = Task(1, "x", "S", 0.0, syscall=number, args=(0, 0, 0, 0, ctypes.addressof(memory), 0))
    wait = describe_wait(task, Scene(os.getpid()), "x86_64")
    assert wait is not None
    assert wait.phrase == phrase


@pytest.mark.quick
@given(
    st.sampled_from(sorted(TABLES)),
    st.integers(-2, 460),
    st.lists(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**31, 2**32 - 1, 2**63])), max_size=6),
)
def test_no_arguments_break_the_phrases(machine, number, args):
    task = Task(1, "x", "S", 0.0, syscall=number, args=tuple(args))
    wait = describe_wait(task, Scene(os.getpid()), machine)
    assert (wait is None) == (number not in TABLES[machine])


def test_a_thread_that_has_ended_is_no_error():
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        read_file("/proc/999999999/stat")
    assert read_states(999999999) == {}
