"""The tree is asked twice, then killed, and nobody is believed dead without a look."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys

import pytest

from act.jobs import PYTHON, state_of
from unsloth_watch.act.guardian import descendants, read_start_ticks
from unsloth_watch.act.terminate import (
    KILL_GRACE_LIMIT_S,
    ORPHAN_GRACE_S,
    UNKILLABLE_AFTER_S,
    Stage,
    Termination,
    inspect_unkillable,
    is_running,
)
from waiting import until

GRACE_S = 100.0  # virtual: the tests move the clock

# Says which signals it gets, and stays.
STUBBORN = """
import os, signal
def say(signum, frame):
    os.write(1, signal.Signals(signum).name.encode() + b"\\n")
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
    signal.signal(signum, say)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def terminate(job, started, grace_s: float = GRACE_S) -> Termination:
    return Termination(lambda: descendants(job.guardian.pid), (started.pid, started.start_ticks), grace_s, now=0.0)


def finish(termination: Termination) -> None:
    """Let an hour a tick go by until nobody is left."""
    clock = itertools.count(3600, 3600)
    until(lambda: termination.advance(float(next(clock))) is Stage.DONE)


def names(termination: Termination) -> list[str]:
    return [signal.Signals(sent.signum).name for sent in termination.signals_sent]


def test_a_command_that_obeys_sigint_is_sent_nothing_else(job):
    started = job.python(
        "import os, atexit, time\natexit.register(lambda: os.write(1, b'checkpoint\\n'))\n"
        "try:\n    os.write(1, b'ready\\n')\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    raise SystemExit(130)"
    )
    assert job.line() == "ready"
    termination = terminate(job, started)
    assert termination.advance(0.0) is Stage.INTERRUPT
    assert job.line() == "checkpoint"
    until(lambda: termination.advance(1.0) is Stage.DONE)
    assert names(termination) == ["SIGINT"]
    assert os.waitstatus_to_exitcode(job.wait().status) == 130


def test_the_ladder_goes_up_only_when_its_time_has_come(job):
    started = job.python(STUBBORN)
    assert job.line() == "ready"
    termination = terminate(job, started)
    assert termination.advance(0.0) is Stage.INTERRUPT
    assert job.line() == "SIGINT"
    assert termination.advance(GRACE_S - 0.01) is Stage.INTERRUPT
    assert termination.advance(GRACE_S) is Stage.TERMINATE
    assert job.line() == "SIGTERM"
    assert termination.advance(GRACE_S + KILL_GRACE_LIMIT_S - 0.01) is Stage.TERMINATE
    assert termination.alive == ((started.pid, started.start_ticks),)
    assert termination.advance(GRACE_S + KILL_GRACE_LIMIT_S) is Stage.KILL
    until(lambda: termination.advance(GRACE_S + KILL_GRACE_LIMIT_S) is Stage.DONE)
    assert termination.alive == ()
    assert names(termination) == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert os.WTERMSIG(job.wait().status) == signal.SIGKILL


def test_a_short_grace_is_the_grace_of_sigterm_too(job):
    started = job.python(STUBBORN)
    assert job.line() == "ready"
    termination = terminate(job, started, grace_s=2.0)
    termination.advance(0.0)
    assert termination.advance(2.0) is Stage.TERMINATE
    assert termination.advance(3.9) is Stage.TERMINATE
    assert termination.advance(4.0) is Stage.KILL


def test_no_grace_is_sigkill_at_once(job):
    started = job.python(STUBBORN)
    assert job.line() == "ready"
    termination = terminate(job, started, grace_s=0.0)
    assert termination.advance(0.0) is Stage.KILL
    until(lambda: termination.advance(0.0) is Stage.DONE)
    assert names(termination) == ["SIGKILL"]


def test_each_hastening_is_one_stage(job):
    started = job.python(STUBBORN)
    assert job.line() == "ready"
    termination = terminate(job, started)
    termination.advance(0.0)
    termination.hasten(1.0)
    assert termination.advance(1.0) is Stage.TERMINATE
    assert termination.advance(1.1) is Stage.TERMINATE
    termination.hasten(1.2)
    assert termination.advance(1.2) is Stage.KILL
    termination.hasten(1.3)
    assert termination.advance(1.3) in (Stage.KILL, Stage.DONE)
    until(lambda: termination.advance(1.4) is Stage.DONE)


def test_sigint_reaches_the_whole_group_once_and_nobody_in_another(job):
    started = job.python(
        "import os\nfor place in ('same', 'other'):\n    if os.fork() == 0:\n"
        "        if place == 'other': os.setsid()\n        break\nelse: place = 'root'\n"
        "import signal\nsignal.signal(2, lambda *_: os.write(1, place.encode() + b'\\n'))\n"
        "os.write(1, b'ready\\n')\nwhile True: signal.pause()"
    )
    assert [job.line() for _ in range(3)] == ["ready"] * 3
    termination = terminate(job, started)
    termination.advance(0.0)
    assert sorted([job.line(), job.line()]) == ["root", "same"]
    termination.advance(1.0)
    termination.hasten(1.0)
    assert termination.advance(1.0) is Stage.TERMINATE
    until(lambda: termination.advance(1.0) is Stage.DONE)
    assert job.drain() == b""
    assert names(termination) == ["SIGINT", "SIGTERM"]
    assert len(termination.signals_sent[1].pids) == 3


@pytest.mark.parametrize("is_deaf", [False, True])
def test_the_escaped_and_the_double_forked_die(job, is_deaf):
    deaf = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n" if is_deaf else ""
    started = job.python(
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        + "    "
        + deaf.replace("\n", "\n    ")
        + "\n    os.write(1, b'ready\\n')\n    os.execve('/bin/sleep', ['sleep', '600'], {})\n"
        "os.wait()\nos.execv('/bin/sleep', ['sleep', '600'])"
    )
    assert job.line() == "ready"
    termination = terminate(job, started)
    assert termination.advance(0.0) is Stage.INTERRUPT
    job.wait()
    # The root obeyed; who has seen no signal is not left the whole grace, but a moment.
    assert termination.advance(1.0) is Stage.INTERRUPT
    assert termination.advance(1.0 + ORPHAN_GRACE_S) is Stage.TERMINATE
    now = 1.0 + ORPHAN_GRACE_S
    if is_deaf:
        now += KILL_GRACE_LIMIT_S
        assert termination.advance(now) is Stage.KILL
    until(lambda: termination.advance(now) is Stage.DONE)
    assert names(termination) == ["SIGINT", "SIGTERM", *(["SIGKILL"] if is_deaf else [])]
    job.wait_for_nobody()


def test_a_stopped_command_is_continued_so_that_it_can_obey(job):
    started = job.python(STUBBORN)
    assert job.line() == "ready"
    os.kill(started.pid, signal.SIGSTOP)
    until(lambda: state_of(started.pid) == "T")
    termination = terminate(job, started)
    termination.advance(0.0)
    assert {job.line(), job.line()} == {"SIGINT", "SIGCONT"}
    finish(termination)


def test_a_stopped_escapee_is_continued_with_sigterm(job):
    started = job.python(
        "import os\nif os.fork() == 0:\n    os.setsid()\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n    os.kill(os.getpid(), 19)\nos.wait()"
    )
    stopped = int(job.line())
    until(lambda: state_of(stopped) == "T")
    termination = terminate(job, started)
    termination.advance(0.0)
    termination.hasten(1.0)
    assert termination.advance(1.0) is Stage.TERMINATE
    until(lambda: termination.advance(1.0) is Stage.DONE)
    assert "SIGKILL" not in names(termination)


def test_three_hundred_deaf_processes_die(job):
    started = job.python(
        "import os, signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "for i in range(299):\n    if os.fork() == 0:\n        if i % 3 == 0: os.setsid()\n        signal.pause()\n"
        "os.write(1, b'ready\\n')\nwhile True: signal.pause()"
    )
    assert job.line() == "ready"
    termination = terminate(job, started)
    termination.advance(0.0)
    assert len(termination.alive) == 300
    finish(termination)
    assert len(termination.signals_sent[-1].pids) == 300
    job.wait_for_nobody()


def test_those_born_during_the_kill_die_too(job):
    # Whoever sees its child die makes a new one: only killing the parent, again and again, ends it.
    started = job.python(
        "import os, signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nos.write(1, b'ready\\n')\n"
        "while True:\n    if os.fork() == 0:\n        os.setsid()\n        signal.pause()\n    os.wait()"
    )
    assert job.line() == "ready"
    termination = terminate(job, started, grace_s=0.0)
    until(lambda: termination.advance(1.0) is Stage.DONE)
    job.wait_for_nobody()


def test_somebody_who_got_the_roots_pid_is_not_interrupted():
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        start = read_start_ticks(bystander.pid)
        termination = Termination(list, (bystander.pid, start - 1), 0.0, now=0.0)
        assert termination.advance(0.0) is Stage.DONE
        assert termination.signals_sent == []
        termination = Termination(lambda: [(bystander.pid, start - 1)], (bystander.pid, start - 1), 0.0, now=0.0)
        assert termination.advance(0.0) is Stage.DONE
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_root_that_leads_no_group_is_interrupted_alone():
    # Attached, not launched: its group is that of the shell that started it, with others in it.
    leader = subprocess.Popen([*PYTHON, "import subprocess\nsubprocess.run(['sleep', '600'])"], start_new_session=True)
    try:
        member = until(lambda: descendants(leader.pid))[0]
        termination = Termination(lambda: [member], member, GRACE_S, now=0.0)
        termination.advance(0.0)
        until(lambda: termination.advance(1.0) is Stage.DONE)
        assert termination.signals_sent[0].pids == (member[0],)
        assert leader.wait(10) == 0
    finally:
        leader.kill()
        leader.wait()


def test_a_zombie_is_not_running_but_a_process_whose_main_thread_ended_is(job):
    started = job.python(
        "import os, _thread, ctypes\n"
        "def stay():\n    os.write(1, b'ready\\n')\n    os.read(os.pipe()[0], 1)\n"
        "_thread.start_new_thread(stay, ())\n"
        "ctypes.CDLL(None).syscall(ctypes.c_long(60 if os.uname().machine == 'x86_64' else 93), ctypes.c_long(0))"
    )
    assert job.line() == "ready"
    until(lambda: state_of(started.pid) == "Z")
    assert is_running(started.pid, started.start_ticks)
    termination = terminate(job, started, grace_s=0.0)
    until(lambda: termination.advance(0.0) is Stage.DONE)

    child = subprocess.Popen(["true"])
    start = read_start_ticks(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(child.pid, start)
    child.wait()


# In a mount namespace of its own: freezes a file system, writes to it (that is D state), and thaws it when told.
FREEZER = r"""
set -e
dir=$1
truncate -s 16M $dir/image
mkfs.ext4 -q $dir/image
mkdir $dir/mount
mount -o loop $dir/image $dir/mount
cp /bin/dd $dir/dd
echo > $dir/mount/file
fsfreeze -f $dir/mount
trap "fsfreeze -u $dir/mount; umount -l $dir/mount" EXIT
dd if=/dev/zero of=$dir/mount/file bs=4k count=1 conv=notrunc,nocreat 2>/dev/null &
echo $!
read line
"""


@pytest.fixture
def frozen(tmp_path):
    """A process in D state that SIGKILL does not end, and the thawing of what it waits for."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("fsfreeze", "mkfs.ext4", "unshare"))):
        pytest.skip("a real D state needs root, fsfreeze and mkfs.ext4")
    code = 'exec sh -c "$0" sh "$1"'
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", code, FREEZER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        word = holder.stdout.readline()
        if not word:
            pytest.skip(f"no file system can be frozen here: {holder.stderr.read().strip()}")
        yield int(word), holder
    finally:
        holder.communicate("thaw\n", timeout=20)


def test_a_process_in_d_state_is_reported_with_what_it_waits_for(frozen):
    pid, holder = frozen
    until(lambda: state_of(pid) == "D")
    member = (pid, read_start_ticks(pid))
    termination = Termination(lambda: [member], member, 0.0, now=0.0)
    assert termination.advance(0.0) is Stage.KILL
    assert termination.advance(UNKILLABLE_AFTER_S - 0.01) is Stage.KILL
    assert termination.advance(UNKILLABLE_AFTER_S) is Stage.UNKILLABLE
    (found,) = termination.unkillable
    assert (found.pid, found.state, found.is_permitted) == (pid, "D", True)
    # A thread has its D for some microseconds before it is off the CPU, and until then no wait channel: look again.
    until(lambda: termination.advance(UNKILLABLE_AFTER_S) and termination.unkillable[0].wait_channel)
    holder.stdin.write("thaw\n")
    holder.stdin.flush()
    until(lambda: termination.advance(100.0) is Stage.DONE)
    assert termination.unkillable == ()


@pytest.mark.quick
def test_what_a_dead_process_waits_for_is_nothing():
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    start = read_start_ticks(child.pid)
    child.wait()
    assert inspect_unkillable(child.pid, start) is None


def test_somebody_who_was_overlooked_is_asked_like_everybody_and_not_killed_at_once() -> None:
    overlooked = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        start = read_start_ticks(overlooked.pid)
        assert start is not None
        member = (overlooked.pid, start)
        looks = itertools.chain([[], []], itertools.repeat([member]))
        termination = Termination(lambda: next(looks), member, GRACE_S, now=0.0)
        assert termination.advance(0.0) is Stage.DONE
        assert termination.advance(1.0) is Stage.INTERRUPT
        assert [sent.signum for sent in termination.signals_sent] == [signal.SIGINT]
    finally:
        overlooked.kill()
        overlooked.wait()
