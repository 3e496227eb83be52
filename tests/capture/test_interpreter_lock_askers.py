"""Who asks for the interpreter lock is known by the futex in the interpreter's own data; all other waits with a time-out are not it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unsloth_watch.capture.interpreterlock import find_askers, list_data
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.waits import Task, read_task, read_tasks
from waiting import until

PROGRAM = """
import ctypes, queue, sys, threading
lock = threading.Lock()
lock.acquire()
waits = (
    lambda: threading.Event().wait(900),
    lambda: queue.SimpleQueue().get(timeout=900),
    lambda: lock.acquire(timeout=900),
)
resting = [threading.Thread(target=wait, daemon=True) for wait in waits]
for thread in resting:
    thread.start()

def ask():
    while True:
        threading.Event().wait(0.001)

asker = threading.Thread(target=ask, daemon=True)
asker.start()
print(asker.native_id, *(thread.native_id for thread in resting), flush=True)
sys.stdin.readline()
ctypes.PyDLL(None).pause()  # with the interpreter lock
"""


def test_only_the_thread_that_asks_for_the_interpreter_lock_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            asker, *resting = map(int, process.stdout.readline().split())
            until(lambda: are_at_rest(process.pid, resting))
            process.stdin.write("\n")
            process.stdin.flush()
            until(lambda: asker in find_askers(read_tasks(process.pid), process.pid))
            found = {tid for _ in range(20) for tid in find_askers(read_tasks(process.pid), process.pid)}
            assert found == {asker}
        finally:
            process.kill()


def are_at_rest(pid: int, tids: list[int]) -> bool:
    """Whether threads are in waits of their own: in a futex, and not asking for the interpreter lock on their way to it."""
    tasks = [task for tid in tids if (task := read_task(pid, tid)) is not None]
    return all(name_syscall(task.syscall) == "futex" for task in tasks) and not find_askers(tasks, pid)


@pytest.mark.quick
def test_a_process_none_of_whose_threads_waits_by_the_clock_has_none() -> None:
    task = Task(1, "python", "S", 0.0, syscall=0, args=(0, 0, 0, 0, 0, 0))
    assert find_askers([task], 0) == frozenset()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("path", "is_interpreter"),
    [
        ("/usr/bin/python3.11", True),
        ("/opt/lib/libpython3.13.so.1.0", True),
        ("/opt/lib/libpython3.13t.so.1.0", True),
        ("/usr/bin/python3.11 (deleted)", True),
        ("/opt/python3.11/lib/lib_elsewhere.so", False),
        ("/opt/lib/python3.11/lib-dynload/_queue.cpython-311-x86_64-linux-gnu.so", False),
        ("/opt/python3-bindings.so", False),
        ("[heap]", False),
    ],
)
def test_only_the_writable_data_of_the_interpreter_itself_counts(path: str, is_interpreter: bool) -> None:
    head = "7f0000000000-7f0000001000"
    assert list(list_data(f"{head} rw-p 00001000 08:01 7    {path}\n".encode())) == (
        [(0x7F0000000000, 0x7F0000001000)] if is_interpreter else []
    )
    assert not list(list_data(f"{head} r--p 00001000 08:01 7    {path}\n".encode()))
    assert not list(list_data(f"{head} rw-s 00001000 08:01 7    {path}\n".encode()))


def test_this_interpreter_has_such_data() -> None:
    assert list(list_data(Path("/proc/self/maps").read_bytes()))
