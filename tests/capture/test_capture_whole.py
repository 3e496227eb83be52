"""Whole captures: order, identity, deadlines, probes, another user's process, and looks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from otheruser import require_other_user
from unsloth_watch.capture.capture import capture, look, looks, stack_signature
from unsloth_watch.capture.children import own_pids
from unsloth_watch.capture.look import burst
from unsloth_watch.capture.members import take_turns
from unsloth_watch.capture.process import ProcessRead, read_process
from unsloth_watch.capture.pyspy import find_binary
from unsloth_watch.capture.waits import Task, read_states
from unsloth_watch.model.evidence import CacheProbe, Evidence, Frame
from unsloth_watch.model.process import ProcessRef

SLEEP = "import time\ndef work(): time.sleep(500)\nprint('ready'); work()"


def take(refs, root=None, **options) -> Evidence:
    return capture(refs, root, at=time.monotonic(), clock=time.monotonic, **options)


def test_the_root_comes_first_and_the_others_by_pid(start):
    targets = [start(SLEEP).rest() for _ in range(4)]
    root = targets[2].ref
    evidence = take([target.ref for target in targets], root)
    others = sorted(target.ref for target in targets if target.ref != root)
    assert [process.ref for process in evidence.processes] == [root, *others]
    assert evidence.root == root
    assert all(process.stack_method == "native" for process in evidence.processes)
    assert evidence.seconds > 0
    assert own_pids() == frozenset()


@pytest.mark.quick
def test_stacks_are_taken_of_one_of_each_kind_first_the_root_before_all():
    calls = [61, 202, 202, 202, 0, 202, 0]  # the root waits for a child, its workers for memory, and two for a pipe
    reads = [
        ProcessRead(ProcessRef(pid, 1), 1, "S", executable="/usr/bin/python3", tasks=(Task(pid, "python", "S", 0.0, syscall=call),))
        for pid, call in enumerate(calls, start=10)
    ]
    assert take_turns(reads) == [0, 1, 4, 2, 6, 3, 5]


def test_the_root_is_captured_although_it_is_not_among_the_members(start):
    target = start(SLEEP).rest()
    assert [process.ref for process in take([], target.ref).processes] == [target.ref]


def test_a_process_shows_its_command_place_environment_and_user(start, tmp_path):
    target = start("import os, sys\nos.chdir(sys.argv[1]); print('ready'); input()", tmp_path, "two words", "")
    process = take([target.ref]).processes[0]
    assert process.command is not None
    assert process.command[-3:] == (str(tmp_path), "two words", "")
    assert process.cwd == str(tmp_path)
    assert process.environment is not None
    assert process.environment["PATH"] == os.environ["PATH"]
    assert process.uid == os.geteuid()
    assert process.ppid == os.getpid()
    assert process.executable == os.path.realpath(sys.executable)


def test_names_that_are_no_utf8_can_be_written_into_a_report(start, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.lock")
    target = start("import os, sys\nf = open(os.fsencode(sys.argv[1]), 'w'); print('ready'); input()", os.fsdecode(name))
    evidence = take([target.ref])
    assert "\\xff\\xfe.lock" in msgspec.json.decode(msgspec.json.encode(evidence))["processes"][0]["descriptors"][3]["target"]


def test_a_pid_that_was_reused_is_not_the_process_that_was_meant(start):
    target = start(SLEEP).rest()
    stranger = ProcessRef(target.pid, target.ref.start_ticks - 1)
    evidence = take([stranger])
    assert evidence.processes == ()
    assert evidence.missing[0] == f"PID {target.pid}: it ended before it could be looked at"
    assert read_process(stranger) is None
    assert look(stranger) is None


def test_a_capture_of_nothing_is_evidence_of_nothing():
    evidence = take([])
    assert evidence.processes == ()
    assert evidence.host["kernel"] == os.uname().release


def test_a_blocking_tool_does_not_make_a_capture_late(start, fake_tool):
    targets = [start(SLEEP).rest() for _ in range(6)]
    evidence = take([target.ref for target in targets], deadline_s=1.0, binary=fake_tool("exec sleep 500"))
    assert len(evidence.processes) == 6
    assert all(process.missing and process.threads[0].state == "S" for process in evidence.processes)
    assert not evidence.is_complete


def test_probes_answer_with_caches_and_versions_and_their_faults_are_said(start):
    target = start(SLEEP).rest()
    release = threading.Event()
    probe = CacheProbe("hub", "/x", "default", exists=False)

    def find_versions(processes):
        return {"torch": str(processes[0].ref.pid)}

    def find_caches(processes):
        return (probe,)

    def fail(processes):
        raise ValueError("odd")

    def hang(processes):
        release.wait()
        return ()

    evidence = take([target.ref], probes=[find_versions, find_caches, fail, hang], deadline_s=4.0)
    release.set()
    assert evidence.versions == {"torch": str(target.pid)}
    assert evidence.caches == (probe,)
    assert "fail: ValueError('odd')" in evidence.missing
    assert "hang: no answer in time" in evidence.missing


def test_locals_come_only_when_asked_for(start):
    target = start("import time\ndef work(token): time.sleep(500)\nprint('ready'); work('secret')")
    target.rest()
    assert "secret" not in str(take([target.ref]).processes[0].threads)
    frames = take([target.ref], with_locals=True).processes[0].threads[0].frames
    assert next(frame.locals for frame in frames if frame.function == "work") == {"token": '"secret"'}


def test_captures_at_the_same_time_do_not_disturb_each_other(start):
    target = start(SLEEP).rest()
    results: list[Evidence] = []
    threads = [threading.Thread(target=lambda: results.append(take([target.ref]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # one that comes upon the pause of another reads without a pause of its own
    assert {evidence.processes[0].stack_method for evidence in results} <= {"native", "nonblocking"}
    assert all("work" in [frame.function for frame in evidence.processes[0].threads[0].frames] for evidence in results)
    assert len(results) == 3
    assert set(read_states(target.pid).values()) == {"S"}


OTHER_USER = """
import sys, time, os
import concurrent, encodings.idna, ipaddress, msgspec, selectors, subprocess
from unsloth_watch.capture.capture import capture
from unsloth_watch.model.process import ProcessRef
take = lambda: capture([ref], ref, at=time.monotonic(), clock=time.monotonic, binary=sys.argv[3])
ref = ProcessRef(int(sys.argv[1]), int(sys.argv[2]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.stdout.buffer.write(msgspec.json.encode(take()))
"""


def test_another_users_process_says_which_right_is_missing(start):
    require_other_user()
    target = start(SLEEP).rest()
    target.rest()
    argv = [sys.executable, "-c", OTHER_USER, str(target.pid), str(target.ref.start_ticks), str(find_binary())]
    printed = subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout
    evidence = msgspec.json.decode(printed, type=Evidence)
    process = evidence.processes[0]
    assert process.threads[0].state == "S"
    assert process.environment is None
    assert process.descriptors is None
    words = "\n".join(process.missing)
    assert f"stack of PID {target.pid}: no permission to trace; run with CAP_SYS_PTRACE or set kernel.yama.ptrace_scope=0" in words
    assert f"environment of PID {target.pid}: no permission" in words
    assert f"open descriptors of PID {target.pid}: no permission" in words
    assert not evidence.is_complete


def test_a_look_shows_the_main_thread_and_never_pauses(start, fake_tool, tmp_path):
    log = tmp_path / "calls"
    binary = fake_tool(f'echo "$@" >> {log}\nexec {find_binary()} "$@"')
    target = start("import threading\ndef f(n): f(n - 1) if n else threading.Event().wait()\nprint('ready'); f(9)")
    target.await_call("futex")
    first, second = look(target.ref, binary=binary), look(target.ref, binary=binary)
    assert first is not None
    assert first == second
    assert first.ref == target.ref
    assert len(first.top) == 6
    assert first.top[0].startswith(("Condition.wait (", "wait ("))  # Python has no qualified names before 3.11
    assert all("--nonblocking" in line for line in log.read_text().splitlines())


def test_another_place_is_another_stack(start):
    program = "import time\ndef work(): time.sleep({})\nprint('ready'); {}"
    targets = [start(program.format(*words)) for words in ((500, "work()"), (501, "work()"), (500, "time.sleep(500)"))]
    for target in targets:
        target.rest()
    found = looks([target.ref for target in targets])
    assert [item.ref for item in found] == [target.ref for target in targets]
    assert found[0].stack == found[1].stack
    assert found[0].stack != found[2].stack


def test_a_burst_brings_the_looks_of_each_round_in_their_order(start):
    targets = [start(SLEEP).rest() for _ in range(2)]
    found = burst([target.ref for target in targets], 3, 0.01)
    assert [item.ref for item in found] == [target.ref for target in targets] * 3
    assert len({item.stack for item in found}) == 1


def test_looks_leave_out_what_cannot_be_looked_at(start):
    target = start(SLEEP).rest()
    other = start("", argv=["/bin/sleep", "500"], is_announced=False)
    assert [item.ref for item in looks([other.ref, target.ref])] == [target.ref]
    assert looks([]) == ()


def test_a_blocking_tool_gives_no_look(start, fake_tool):
    assert look(start(SLEEP).rest().ref, 0.2, binary=fake_tool("exec sleep 500")) is None


@pytest.mark.quick
def test_a_signature_counts_python_frames_and_native_ones_only_where_there_are_no_others():
    python = [Frame("f", "a.py", 1), Frame("g", "a.py", 2)]
    native = Frame("poll", "libc.so", 0, is_native=True)
    assert stack_signature(python) == stack_signature([native, *python])
    assert stack_signature(python) != stack_signature(python[:1])
    assert stack_signature([native]) != stack_signature([])
    assert stack_signature([Frame("f", "a.py", 1)]) != stack_signature([Frame("f", "a.py", 2)])
    assert len(stack_signature(python)) == 8
    int(stack_signature(python), 16)
