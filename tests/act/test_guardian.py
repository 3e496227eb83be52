"""Nobody of the job outlives the supervisor by more than moments, whatever they do to hide."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from act.jobs import PYTHON, read_to_end, state_of
from namespaces import require_unshare
from unsloth_watch.act import guardian
from unsloth_watch.act.guardian import children_of, descendants, read_start_ticks, send_signal
from unsloth_watch.act.terminate import is_running
from waiting import until

# Starts a guardian and a job whose standard output is the pipe that we watch, says so, and waits to be killed.
SUPERVISOR = """
import os, select, sys
from unsloth_watch.act.launch import Guardian
how, pipe, code = sys.argv[1], int(sys.argv[2]), sys.argv[3]
guardian = getattr(Guardian, how)()
started = guardian.start([sys.executable, "-I", "-S", "-c", code], dict(os.environ), "/", 0, pipe, 2)
os.close(pipe)
print(guardian.pid, started.pid, flush=True)
select.select([], [], [])
"""

ESCAPES = {
    "plain": "",
    "own group": "os.setpgid(0, 0)",
    "own session": "os.setsid()",
    "daemon": "os.setsid()\nif os.fork(): os._exit(0)",
    "daemon of a wiped environment": "os.setsid()\nif os.fork(): os._exit(0)\nenvironment = {}",
    "deaf to every signal": "import signal\nfor n in signal.valid_signals() - {9, 19}: signal.signal(n, signal.SIG_IGN)",
    "stopped": "os.write(1, b'ready\\n')\nos.kill(os.getpid(), 19)",
}

ESCAPEE = """
import os, sys
environment = dict(os.environ)
if os.fork() == 0:
{escape}
    os.write(1, b"ready\\n")
    os.execve("/bin/sleep", ["sleep", "600"], environment)
os.wait()
os.execv("/bin/sleep", ["sleep", "600"])
"""


def escapee(escape: str) -> str:
    return ESCAPEE.format(escape="\n".join("    " + line for line in escape.splitlines()))


def start_supervised(supervisor, how: str, code: str) -> tuple[subprocess.Popen, int, list[int]]:
    output, writer = os.pipe()
    process = supervisor(SUPERVISOR, how, str(writer), code, pass_fds=[writer])
    os.close(writer)
    pids = [int(word) for word in process.stdout.readline().split()]
    return process, output, pids


def read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(fd, 1)
        assert part, "the job ended before it was ready"
        line += part
    return line


@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.parametrize("escape", ESCAPES)
def test_nobody_survives_the_sigkill_of_the_supervisor(supervisor, how, escape):
    process, output, (keeper, command) = start_supervised(supervisor, how, escapee(ESCAPES[escape]))
    identities = [(pid, read_start_ticks(pid)) for pid in (keeper, command)]
    try:
        assert read_line(output) == b"ready\n"
        process.kill()
        process.wait()
        read_to_end(output)
        until(lambda: not any(is_running(*identity) for identity in identities))
    finally:
        os.close(output)


def test_a_fork_storm_dies_while_it_rages(supervisor):
    # Every process forks two, in sessions of their own, seven generations deep: 254 in all, most born after the kill began.
    storm = """
import os
os.write(1, b"ready\\n")
for _ in range(7):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            break
    else:
        break
os.execv("/bin/sleep", ["sleep", "600"])
"""
    process, output, _ = start_supervised(supervisor, "fork", storm)
    try:
        assert read_line(output) == b"ready\n"
        process.kill()
        read_to_end(output)
    finally:
        os.close(output)


def test_the_guardian_is_deaf_to_what_a_terminal_or_an_operator_sends(job):
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
        # The first answer says that it has settled in: before that the signal would meet a starting interpreter.
        assert job.run("true")[1] == 0
        os.kill(job.guardian.pid, signum)
    assert job.run("true")[1] == 0
    assert job.guardian.is_alive()


def test_the_guardian_is_out_of_reach_of_the_terminal(job):
    job.run("true")
    assert os.getsid(job.guardian.pid) == job.guardian.pid


def test_the_guardian_holds_nothing_of_the_supervisor_open(job):
    job.run("true")
    links = {os.readlink(f"/proc/{job.guardian.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{job.guardian.pid}/fd")}
    kinds = sorted(link.split(":")[0] for link in links)
    assert kinds == ["/dev/null", "pipe", "socket"]


def test_orphans_are_reaped_without_a_word(job):
    job.python(
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(3)\n    os._exit(4)\nos.wait()\nos._exit(5)"
    )
    assert os.waitstatus_to_exitcode(job.wait().status) == 5
    until(lambda: not children_of(job.guardian.pid))
    assert job.guardian.exits() == []


def test_children_of_every_thread_are_found(job):
    started = job.python(
        "import os, _thread\n"
        "def spawn():\n"
        "    os.posix_spawn('/bin/sleep', ['sleep', '600'], {})\n"
        "    os.write(1, b'ready\\n')\n"
        "    _thread.allocate_lock(), os.read(os.pipe()[0], 1)\n"
        "_thread.start_new_thread(spawn, ())\n"
        "os.read(os.pipe()[0], 1)"
    )
    assert job.line() == "ready"
    assert len(descendants(started.pid)) == 1


def test_a_family_larger_than_one_read_of_the_kernel_is_listed_whole(job):
    # 4,096 bytes hold some 680 five-digit PIDs; vfork keeps 800 children cheap.
    count = 800
    started = job.python(
        f"import os\nfor _ in range({count}): os.posix_spawn('/bin/sleep', ['sleep', '600'], {{}})\n"
        "os.write(1, b'ready\\n')\nos.read(os.pipe()[0], 1)"
    )
    assert job.line(60) == "ready"
    assert len(set(descendants(started.pid))) == count


def test_a_kernel_without_lists_of_children_is_asked_for_everybodys_parent():
    child = subprocess.Popen(["sleep", "600"])
    try:
        assert sorted(guardian._parents()[os.getpid()]) == sorted(children_of(os.getpid()))
        assert child.pid in children_of(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_a_reused_pid_is_not_signalled():
    child = subprocess.Popen(["sleep", "600"])
    try:
        start = read_start_ticks(child.pid)
        assert start is not None
        assert not send_signal(child.pid, start + 1, signal.SIGKILL)
        assert child.poll() is None
        assert send_signal(child.pid, start, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not send_signal(child.pid, start, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_a_supervisor_that_lets_go_leaves_the_job_alone(job):
    started = job.python("import os\nos.write(1, b'ready\\n')\nos.execv('/bin/sleep', ['sleep', '600'])")
    assert job.line() == "ready"
    assert job.guardian.close(kill=False)
    try:
        assert is_running(started.pid, started.start_ticks)
    finally:
        send_signal(started.pid, started.start_ticks, signal.SIGKILL)
    job.wait_for_nobody()


def test_closing_kills_everyone_and_reaps_the_guardian(job):
    job.start(*PYTHON, escapee(ESCAPES["daemon"]))
    assert job.line() == "ready"
    assert job.guardian.close()
    assert not job.guardian.is_alive()
    job.wait_for_nobody()


def test_the_command_dies_with_its_supervisor_even_where_proc_has_gone(tmp_path) -> None:
    words = require_unshare("--mount", "--propagation", "private")
    code = (
        "import os, sys; from unsloth_watch.act.launch import Guardian; g = Guardian.spawn();"
        "s = g.start(['sleep', '600'], dict(os.environ), '/', 0, 1, 2); os.system('mount -t tmpfs none /proc'); print(s.pid, flush=True); sys.stdin.read()"
    )
    supervisor = subprocess.Popen([*words, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert state_of(pid) not in (None, "Z")
    supervisor.kill()
    supervisor.communicate()
    until(lambda: state_of(pid) in (None, "Z"))
