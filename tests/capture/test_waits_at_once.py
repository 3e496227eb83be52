"""What a call points to is read together with the call: the array of a poll is another one as soon as it has timed out."""

from __future__ import annotations

import subprocess
import sys

from unsloth_watch.capture.process import read_process, read_start
from unsloth_watch.capture.syscalls import name_syscall
from unsloth_watch.capture.threads import build_threads
from unsloth_watch.capture.waits import read_task
from unsloth_watch.model.process import ProcessRef
from waiting import until

PROGRAM = """
import os, select, sys

def poll(*watched):
    one = select.poll()
    for fd in watched:
        one.register(fd, select.POLLIN)
    print(*watched, flush=True)
    one.poll()

poll(0)
os.read(0, 1)
first, _ = os.pipe()
second, _ = os.pipe()
poll(first, second)
"""


def test_a_process_that_went_on_after_it_was_read_is_shown_as_it_was() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"0\n"
            until(lambda: is_polling(process.pid, 1))
            read = read_process(ProcessRef(process.pid, read_start(process.pid) or 0))
            process.stdin.write(b"!")
            process.stdin.flush()
            until(lambda: is_polling(process.pid, 2))
            assert read is not None
            thread = build_threads(read, {}, reads_memory=True)[0]
            assert thread.wait_fds == (0,)
            assert thread.wait is not None
            assert thread.wait.startswith("polls fd 0 ")
        finally:
            process.kill()


def is_polling(pid: int, count: int) -> bool:
    """Whether a process polls so many descriptors."""
    task = read_task(pid, pid)
    is_poll = task is not None and name_syscall(task.syscall) in ("poll", "ppoll") and task.args[1] == count
    return is_poll and task is not None and task.state == "S"
