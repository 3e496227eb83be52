"""The ladder: every kind of process that a blocking dump could hang on or change, and every fault of the tool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from unsloth_watch.capture import pystack
from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.dump import Dump, DumpFailure, Failure, PythonThread
from unsloth_watch.capture.ladder import Climb, climb, find_danger
from unsloth_watch.capture.process import read_process, read_start
from unsloth_watch.capture.pyspy import dump, find_binary
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.threads import match_threads
from unsloth_watch.capture.waits import Task, read_states, read_tasks
from unsloth_watch.model.evidence import Frame, ProcessEvidence
from unsloth_watch.model.process import ProcessRef
from waiting import SLEEPS, until

SLEEP = "import time\nprint('ready'); time.sleep(500)"


def look_at(target, **options) -> ProcessEvidence:
    evidence = capture([target.ref], target.ref, at=time.monotonic(), clock=time.monotonic, **options)
    assert len(evidence.processes) == 1, evidence.missing
    return evidence.processes[0]


def climb_to(target, **options) -> Climb:
    read = read_process(target.ref)
    assert read is not None
    return climb(read, Deadline(20), **options)


def modes_of(log: Path) -> list[str]:
    """Return the modes that the recording py-spy was asked for."""
    lines = log.read_text().splitlines()
    return ["nonblocking" if "--nonblocking" in line else "native" if "--native" in line else "plain" for line in lines]


@pytest.fixture
def recorder(fake_tool, tmp_path):
    """The real py-spy, with a record of what it was asked for."""
    log = tmp_path / "calls"
    log.touch()
    return fake_tool(f'echo "$@" >> {log}\nexec {find_binary()} "$@"'), log


def test_a_stopped_process_is_read_without_a_pause_and_stays_stopped(start, recorder):
    binary, log = recorder
    target = start(SLEEP).rest()
    target.rest()
    target.stop()
    process = look_at(target, binary=binary)
    assert process.stack_method == "nonblocking"
    assert process.state == "T"
    assert [frame.function for frame in process.threads[0].frames] == ["<module>"]
    assert set(modes_of(log)) == {"nonblocking"}
    assert set(read_states(target.pid).values()) == {"T"}
    assert "state T" in process.notes[0]


def test_a_process_in_vfork_is_read_without_a_pause(start, recorder, tmp_path):
    binary, log = recorder
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    target = start(
        "import os, sys, threading, time\n"
        "actions = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]\n"
        "def stuck(): os.posix_spawn('/bin/true', ['true'], {}, file_actions=actions)\n"
        "print('ready'); stuck(); time.sleep(500)",
        fifo,
    )
    try:
        target.await_state("D")
        process = look_at(target, binary=binary)
        assert process.stack_method == "nonblocking"
        assert [frame.function for frame in process.threads[0].frames] == ["stuck", "<module>"]
        assert process.threads[0].wait == "waits for a child to exec (vfork)"
        assert set(modes_of(log)) == {"nonblocking"}
        assert "D" in read_states(target.pid).values()
    finally:
        os.close(os.open(fifo, os.O_WRONLY))  # lets the child go on to its exec
    until(lambda: "D" not in read_states(target.pid).values())


def test_a_process_that_somebody_traces_is_read_without_a_pause(start):
    target = start(SLEEP).rest()
    tracer = start(
        "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "r = libc.ptrace(0x4206, int(sys.argv[1]), None, None)\nprint('ready'); print(r); input()",  # PTRACE_SEIZE
        target.pid,
    )
    if tracer.line() != "0":
        pytest.skip("tracing is refused here: run as root or set kernel.yama.ptrace_scope=0")
    target.rest()
    process = look_at(target)
    assert process.tracer_pid == tracer.pid
    assert process.stack_method == "nonblocking"
    assert process.threads[0].frames
    assert set(read_states(target.pid).values()) == {"S"}


def test_a_process_that_may_be_healthy_is_never_paused(start, recorder):
    binary, log = recorder
    target = start(SLEEP).rest()
    assert look_at(target, binary=binary, is_gentle=True).stack_method == "nonblocking"
    assert modes_of(log) == ["nonblocking"]


CALLS = {
    # Each ends its call early when a tracer attaches (seen on 6.18); the parent's word that it went on is the second line.
    "recvfrom": "near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 300, 0))\n"
    "call = lambda: libc.recv(near.fileno(), room, 100, 0)",
    "recvfrom of everything": "far.send(b'part')\ncall = lambda: libc.recv(near.fileno(), room, 100, socket.MSG_WAITALL)",
    "read": "near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 300, 0))\n"
    "call = lambda: libc.read(near.fileno(), room, 100)",
    "epoll_wait": "waiting = select.epoll()\ncall = lambda: libc.epoll_wait(waiting.fileno(), room, 4, -1)",
    "accept": "near = socket.create_server(('127.0.0.1', 0))\n"
    "near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 300, 0))\n"
    "call = lambda: libc.accept(near.fileno(), None, None)",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_a_pause_would_end_is_read_without_one_and_goes_on(start, recorder, name):
    binary, log = recorder
    target = start(
        "import ctypes, select, socket, struct, time\nlibc = ctypes.CDLL(None)\nroom = ctypes.create_string_buffer(256)\n"
        f"near, far = socket.socketpair()\n{CALLS[name]}\nprint('ready')\nprint('it returned', call())\ntime.sleep(500)"
    )
    target.await_call(name.partition(" ")[0])
    before = read_tasks(target.pid)[0]
    process = look_at(target, binary=binary)
    assert set(modes_of(log)) == {"nonblocking"}
    assert process.stack_method == "nonblocking"
    assert f"cut the {name.partition(' ')[0]}" in process.notes[0]
    after = read_tasks(target.pid)[0]
    assert (after.syscall, after.args, after.vctx) == (before.syscall, before.args, before.vctx)


def test_a_read_of_a_pipe_may_be_paused_as_it_goes_on_by_itself(start, recorder):
    binary, log = recorder
    target = start("import os\nready, _ = os.pipe()\nprint('ready'); os.read(ready, 1)")
    target.await_call("read")
    before = read_tasks(target.pid)[0]
    assert look_at(target, binary=binary).stack_method == "native"
    assert modes_of(log) == ["native"]
    assert (read_tasks(target.pid)[0].syscall, read_tasks(target.pid)[0].args) == (before.syscall, before.args)


def test_two_hundred_threads_all_have_their_stacks_and_waits(start):
    target = start(
        "import threading\ne = threading.Event()\n"
        "for n in range(200): threading.Thread(target=e.wait, name=f't{n}', daemon=True).start()\nprint('ready'); e.wait()"
    )
    # a thread that has just started waits for the interpreter lock instead, which has a timeout (fourth argument)
    until(lambda: all(name_syscall(task.syscall) == "futex" and not task.args[3] for task in read_tasks(target.pid)))
    process = look_at(target)
    assert len(process.threads) == 201
    assert {thread.name for thread in process.threads} == {"MainThread", *(f"t{n}" for n in range(200))}
    assert all(any(frame.function.endswith("wait") for frame in thread.frames) for thread in process.threads)
    assert all(thread.call == "futex" for thread in process.threads)


def test_a_process_that_is_no_python_is_said_to_be_none_and_nothing_is_missing(start):
    target = start("", argv=["/bin/sleep", "500"], is_announced=False)
    target.rest()
    process = look_at(target)
    assert process.notes == (f"PID {target.pid} is no Python process ({process.executable})",)
    assert not process.missing
    assert process.stack_method is None
    assert process.threads[0].call == "clock_nanosleep"


def test_a_zombie_is_said_to_be_one_and_nothing_is_missing(start):
    target = start("print('ready')")
    target.await_state("Z")
    process = look_at(target)
    assert process.state == "Z"
    assert "zombie" in process.notes[0]
    assert not process.missing


def test_a_process_whose_main_thread_has_ended_shows_the_waits_of_the_others(start):
    target = start(
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(500,)).start()\nprint('ready')\n"
        "ctypes.CDLL(None).syscall(60, 0)"  # exit(2) of this thread only
        if os.uname().machine == "x86_64"
        else "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(500,)).start()\nprint('ready')\n"
        "ctypes.CDLL(None).syscall(93, 0)"
    )
    target.await_state("Z")
    process = look_at(target)
    assert process.missing == (
        f"stack of PID {target.pid}: its main thread has ended while 1 others live, which py-spy cannot read",
    )
    assert process.threads[1].call in SLEEPS


def test_a_forked_child_keeps_its_own_main_thread(start):
    target = start(
        "import os, threading, time\nthreading.Thread(target=time.sleep, args=(500,), daemon=True).start()\n"
        "pid = os.fork()\nif pid: print('ready'); print(pid)\ntime.sleep(500)"
    )
    pid = int(target.line())
    evidence = capture([ProcessRef(pid, read_start(pid) or 0)], None, at=0, clock=lambda: 1)
    main = evidence.processes[0].main_thread
    assert main is not None
    assert main.name == "MainThread"
    assert not evidence.processes[0].missing
    assert len(evidence.processes[0].threads) == 1


def test_a_process_that_ends_in_the_middle_is_no_fault(start, fake_tool):
    target = start(SLEEP).rest()
    process = look_at(target, binary=fake_tool(f'kill -9 $PID\nexec {find_binary()} "$@"'))
    assert process.missing == (f"stack of PID {target.pid}: it ended before it could be read",)
    assert process.threads


def test_the_next_rung_answers_when_one_fails(start, fake_tool):
    target = start(SLEEP).rest()
    binary = fake_tool(f'case "$*" in *--native*) echo "Error: odd" >&2; exit 1;; esac\nexec {find_binary()} "$@"')
    assert look_at(target, binary=binary).stack_method == "plain"


def test_a_nonblocking_dump_is_tried_again_when_it_was_torn(start, fake_tool, tmp_path):
    target = start(SLEEP).rest()
    target.stop()
    binary = fake_tool(f'[ -e {tmp_path}/once ] && exec {find_binary()} "$@"\ntouch {tmp_path}/once; echo "[]"')
    assert look_at(target, binary=binary).stack_method == "nonblocking"


def test_a_python_that_was_just_execed_is_tried_again(start, fake_tool, tmp_path):
    target = start(SLEEP).rest()
    words = "Error: Failed to find python version from target process"
    binary = fake_tool(f'[ -e {tmp_path}/once ] && exec {find_binary()} "$@"\ntouch {tmp_path}/once; echo "{words}" >&2; exit 1')
    assert look_at(target, binary=binary).stack_method == "native"


@pytest.mark.parametrize("body", ["exec sleep 500", "echo garbage", "kill -SEGV $$", "yes"])
def test_a_faulty_tool_leaves_the_waits_and_says_why_there_is_no_stack(start, fake_tool, body):
    target = start(SLEEP).rest()
    target.rest()
    result = climb_to(target, rung_s=0.15, binary=fake_tool(body), further=())
    assert result.dump is None
    assert result.missing[0].startswith(f"stack of PID {target.pid}: ")
    assert set(read_states(target.pid).values()) == {"S"}


def test_a_missing_tool_says_what_to_install(start):
    process = look_at(start(SLEEP).rest(), binary="/nonexistent/py-spy")
    assert "pip" in process.missing[0]
    assert process.threads[0].call


def test_a_process_that_a_killed_tool_left_stopped_is_continued(start, fake_tool):
    target = start(SLEEP).rest()
    result = climb_to(target, rung_s=0.3, binary=fake_tool('case "$*" in *--non*) ;; *) kill -STOP $PID;; esac; exec sleep 500'))
    assert any("continued with SIGCONT" in note for note in result.notes)
    until(lambda: set(read_states(target.pid).values()) == {"S"})


def test_a_process_that_was_stopped_by_another_hand_during_the_dump_is_left_so(start, fake_tool):
    target = start(SLEEP).rest()
    result = climb_to(
        target, binary=fake_tool(f'{find_binary()} "$@"; kill -STOP $PID; until grep -q "State:.T" /proc/$PID/status; do :; done')
    )
    assert isinstance(result.dump, Dump)
    assert "left so" in result.notes[0]
    assert set(read_states(target.pid).values()) == {"T"}


def test_a_further_rung_is_asked_last_and_not_when_a_pause_is_dangerous(start, fake_tool):
    found = Dump((PythonThread(None, "MainThread", (Frame("f", "x.py", 1),), None, is_active=True),), "hook")
    binary = fake_tool("echo garbage")
    target = start(SLEEP).rest()
    assert climb_to(target, binary=binary, further=[lambda pid, seconds: found]).dump is found
    target.stop()
    assert climb_to(target, binary=binary, further=[lambda pid, seconds: found]).dump is None


def test_a_further_rung_that_fails_is_named(start, fake_tool):
    refusal = DumpFailure(Failure.OTHER, "the hook has gone home")
    result = climb_to(start(SLEEP).rest(), binary=fake_tool("echo garbage"), further=[lambda pid, seconds: refusal])
    assert "the hook has gone home" in result.missing[0]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("task", "tracer", "is_dangerous"),
    [
        (Task(1, "x", "S", 0.0, "futex_do_wait"), 0, False),
        (Task(1, "x", "S", 0.0, None), 0, False),
        (Task(1, "x", "R", 0.0, ""), 0, False),
        (Task(1, "x", "S", 0.0, "request_wait_answer"), 0, True),
        (Task(1, "x", "S", 0.0, "rpc_wait_bit_killable"), 0, True),
        (Task(1, "x", "D", 0.0, None), 0, True),
        (Task(1, "x", "t", 0.0, None), 0, True),
        (Task(1, "x", "S", 0.0, "futex_do_wait"), 12, True),
    ],
)
def test_danger_is_seen_in_states_wait_channels_and_tracers(task, tracer, is_dangerous):
    assert (find_danger([Task(2, "y", "S", 0.0, ""), task], tracer) is not None) is is_dangerous


@pytest.mark.skipif(pystack.find_binary() is None, reason="pystack is optional: install it with `pip install pystack`")
def test_pystack_answers_where_py_spy_cannot(start, fake_tool):
    target = start(SLEEP).rest()
    target.rest()
    process = look_at(target, binary=fake_tool("echo garbage"))
    assert process.stack_method == "pystack"
    assert any(frame.function == "<module>" and frame.file == "<string>" for frame in process.threads[0].frames)
    assert set(read_states(target.pid).values()) == {"S"}


@pytest.mark.parametrize("reads_memory", [True, False])
def test_threads_are_told_apart_where_python_does_not_know_their_ids(start, reads_memory):
    """Python 3.10 and older have no kernel thread ids, and py-spy finds them only while it pauses the process."""
    target = start(
        "import threading, time\ne = threading.Event()\n"
        "for n in range(20): threading.Thread(target=[e.wait, time.sleep][n % 2], args=(500,), daemon=True).start()\n"
        "print('ready'); e.wait()"
    )
    until(lambda: all(task.state == "S" for task in read_tasks(target.pid)))
    read, answer = read_process(target.ref), dump(target.pid, "plain", 10)
    assert read is not None
    assert isinstance(answer, Dump)
    expected = {thread.tid: thread.name for thread in answer.threads}
    nameless = msgspec.structs.replace(
        answer, threads=tuple(msgspec.structs.replace(thread, tid=None) for thread in answer.threads)
    )
    assert {tid: thread.name for tid, thread in match_threads(read, nameless, reads_memory=reads_memory).items()} == expected
    assert len(expected) == 21


def test_the_main_thread_is_known_without_its_name(start):
    """Only ``threading`` gives it one, which a small program may never import; its stack is not below its handle."""
    target = start("import time\nprint('ready'); time.sleep(500)").rest()
    read, answer = read_process(target.ref), dump(target.pid, "nonblocking", 10)
    assert read is not None
    assert isinstance(answer, Dump)
    nameless = tuple(msgspec.structs.replace(thread, tid=None, name="") for thread in answer.threads)
    assert list(match_threads(read, msgspec.structs.replace(answer, threads=nameless))) == [target.pid]


def test_threads_are_matched_in_a_pid_namespace_of_their_own(start):
    argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-u", "-c"]
    program = "import threading, time\nthreading.Thread(target=time.sleep, args=(500,), name='side', daemon=True).start()\n"
    if subprocess.run([*argv, "pass"], check=False, capture_output=True).returncode:
        pytest.skip("cannot make a PID namespace: run as root")
    outer = start("", argv=[*argv, program + "print('ready'); time.sleep(500)"])
    pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
    inner = ProcessRef(pid, read_start(pid) or 0)
    process = capture([inner], None, at=0, clock=lambda: 1).processes[0]
    assert {thread.name for thread in process.threads} == {"MainThread", "side"}
    assert all(thread.frames for thread in process.threads)
    assert not process.missing


FUSE = r"""
import ctypes, os, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
where = sys.argv[1].encode()
def mount():
    if libc.unshare(0x20000): return ctypes.get_errno()                                  # CLONE_NEWNS: nobody else sees the mount
    if libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None): return ctypes.get_errno()  # MS_REC | MS_PRIVATE
    global fuse
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    return ctypes.get_errno() if libc.mount(b"deaf", where, b"fuse", 0, options) else 0
try:
    fault = mount()
except OSError as error:
    fault = error.errno
print("ready")
print(fault, flush=True)
if fault: sys.exit()
pid = os.fork()
if pid == 0:
    os.close(fuse)
    def stuck(): os.stat(sys.argv[1] + "/file")
    stuck()
    os._exit(0)
print(pid, flush=True)
unique = struct.unpack_from("=IIQ", os.read(fuse, 1 << 17))[2]                           # FUSE_INIT
os.write(fuse, struct.pack("=IiQIIIIHHIIHHI28x", 80, 0, unique, 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0, 0))
time.sleep(500)                                                                          # and never answers again
"""


def test_a_process_in_a_file_system_that_does_not_answer_is_read_without_a_pause(start, tmp_path):
    place = tmp_path / "deaf"
    place.mkdir()
    server = start(FUSE, place)
    fault = int(server.line())
    if fault:
        pytest.skip(f"cannot mount FUSE privately ({os.strerror(fault)}): run as root where /dev/fuse exists")
    pid = int(server.line())
    until(lambda: b"request_wait_answer" in Path(f"/proc/{pid}/wchan").read_bytes())
    ref = ProcessRef(pid, read_start(pid) or 0)
    evidence = capture([ref], ref, at=time.monotonic(), clock=time.monotonic)
    process = evidence.processes[0]
    assert process.stack_method == "nonblocking"
    assert [frame.function for frame in process.threads[0].frames] == ["stuck", "<module>"]
    assert process.threads[0].wait == f"{process.threads[0].call} of {place}/file"
    assert process.threads[0].state == "S"
    assert read_states(pid) == {pid: "S"}
    os.kill(server.pid, signal.SIGKILL)  # closes the connection: the kernel then answers for the dead server
