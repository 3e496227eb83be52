"""Who belongs to the job, with real trees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from unsloth_watch.sense.procfs import TICKS_PER_S, ProcessReader
from unsloth_watch.sense.stat import read_stat
from unsloth_watch.sense.tree import WALK_EVERY, ProcessTree, read_last_pid
from waiting import until

SUBREAPER = "import ctypes, os, sys, threading, time\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
WAIT = "os.read(0, 1)"


@pytest.fixture(params=[True, False], ids=["children files", "parent scan"])
def tree_of(request):
    made = []

    def make(*anchors, **options):
        made.append(ProcessTree(anchors, has_children_files=request.param, **options))
        return made[-1]

    yield make
    for tree in made:
        tree.close()


def pids(tree):
    return {ref.pid for ref in tree.members()}


def numbers(text):
    return set(map(int, re.findall(r"\d+", text)))


def test_children_and_grandchildren_are_members_and_the_guardian_is_none(start, tree_of):
    guardian = start(
        f"import os\nr, w = os.pipe()\nchild = os.fork()\nif child == 0:\n    inner = os.fork()\n    if inner: os.write(w, b'%d' % inner)\n"
        f"    {WAIT}; os._exit(0)\nprint(child, os.read(r, 20).decode(), flush=True); {WAIT}"
    )
    assert pids(tree_of(guardian.pid)) == numbers(guardian.said)


def test_the_child_of_a_thread_is_a_member(start, tree_of):
    guardian = start(
        "import subprocess, threading, sys\n"
        "def fork():\n    p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()\n"
        "threading.Thread(target=fork, daemon=True).start(); sys.stdin.read()"
    )
    assert pids(tree_of(guardian.pid)) == numbers(guardian.said)


def test_a_daemon_that_forked_twice_stays_a_member_after_its_parent_ended(start, tree_of):
    guardian = start(
        f"{SUBREAPER}r, w = os.pipe()\n"
        f"if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.write(w, b'%d' % os.getpid()); {WAIT}; os._exit(0)\n    os._exit(0)\n"
        f"os.wait(); print(os.read(r, 20).decode(), flush=True); {WAIT}"
    )
    daemon = numbers(guardian.said)
    assert pids(tree_of(guardian.pid)) == daemon


def test_a_member_that_leaves_the_tree_is_kept_with_its_later_children(start, tree_of):
    # Without a subreaper the orphan goes to init: only having seen it before tells that it is ours.
    guardian = start(
        f"import os\nr, w = os.pipe()\nmiddle = os.fork()\nif middle == 0:\n    orphan = os.fork()\n"
        f"    if orphan == 0:\n        os.write(w, b'%d' % os.getpid()); os.read(0, 1)\n"
        f"        late = os.fork()\n        if late: os.write(1, b'%d\\n' % late)\n        {WAIT}; os._exit(0)\n    os.read(0, 1); os._exit(0)\n"
        f"print(middle, os.read(r, 20).decode(), flush=True); os.wait(); os.write(1, b'gone\\n'); os.pause() if hasattr(os, 'pause') else __import__('signal').pause()"
    )
    middle, orphan = map(int, guardian.said.split())
    tree = tree_of(guardian.pid)
    assert pids(tree) == {middle, orphan}
    os.kill(middle, signal.SIGKILL)
    assert guardian.stdout.readline() == "gone\n"
    assert read_stat(orphan).ppid not in (guardian.pid, middle)
    assert pids(tree) == {orphan}
    guardian.stdin.write("x")
    guardian.stdin.flush()
    late = int(guardian.stdout.readline())
    assert pids(tree) == {orphan, late}


def test_a_zombie_is_a_member_until_it_is_reaped(start, tree_of):
    guardian = start(
        "import os, sys\nchild = os.fork()\nif child == 0: os._exit(0)\nos.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n"
        "print(child, flush=True); sys.stdin.readline(); os.wait(); print('reaped', flush=True); sys.stdin.read()"
    )
    tree = tree_of(guardian.pid)
    (zombie,) = tree.members()
    assert {zombie.pid} == numbers(guardian.said)
    assert ProcessReader(most_kept=0).read(zombie).state == "Z"
    guardian.stdin.write("go\n")
    guardian.stdin.flush()
    assert guardian.stdout.readline() == "reaped\n"
    assert tree.members() == ()


def test_a_newcomer_shows_on_the_next_tick(start, tree_of):
    guardian = start(
        "import subprocess, sys\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    )
    tree = tree_of(guardian.pid)
    known: set[int] = set()
    for _ in range(WALK_EVERY + 2):
        assert pids(tree) == known
        guardian.stdin.write("fork\n")
        guardian.stdin.flush()
        known.add(int(guardian.stdout.readline()))
    assert pids(tree) == known


def test_who_can_wait_misses_a_newcomer_for_one_call_at_most(start, tree_of):
    guardian = start(
        "import subprocess, sys\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    )
    tree = tree_of(guardian.pid)
    born = set()
    assert pids(tree) == born
    missed = []
    for _ in range(2 * WALK_EVERY):
        guardian.stdin.write("fork\n")
        guardian.stdin.flush()
        born.add(int(guardian.stdout.readline()))
        missed.append(len(born - {ref.pid for ref in tree.members(can_wait=True)}))
    assert set(missed) == {0, 1}
    assert pids(tree) == born


def test_a_newcomers_newcomer_shows_on_the_next_tick_without_a_walk(start, tree_of):
    # So many threads that a list of /proc is cheaper than a walk.
    guardian = start(
        "import os, sys, threading\nhold = threading.Event()\n"
        "for _ in range(300): threading.Thread(target=hold.wait, daemon=True).start()\n"
        "print('ready', flush=True)\nfor line in sys.stdin:\n    r, w = os.pipe()\n    child = os.fork()\n    if child == 0:\n"
        "        inner = os.fork()\n        if inner: os.write(w, b'%d' % inner)\n        os.read(r, 0); __import__('signal').pause()\n"
        "    print(child, os.read(r, 20).decode(), flush=True)"
    )
    tree = tree_of(guardian.pid)
    known: set[int] = set()
    for _ in range(4):
        assert pids(tree) == known
        guardian.stdin.write("fork\n")
        guardian.stdin.flush()
        known |= numbers(guardian.stdout.readline())
    assert pids(tree) == known
    assert len(known) == 8


def test_while_no_pid_was_given_out_nobody_is_searched_for_some_ticks_at_most(start, tree_of):
    guardian = start(
        "import subprocess, sys\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    )
    tree = tree_of(guardian.pid, last_pid=lambda: 1)
    assert pids(tree) == set()
    guardian.stdin.write("fork\n")
    guardian.stdin.flush()
    child = int(guardian.stdout.readline())
    assert [pids(tree) for _ in range(WALK_EVERY)] == [set()] * (WALK_EVERY - 1) + [{child}]


def test_the_pid_given_out_last_is_that_of_the_newest_process(start):
    def is_told():
        child = subprocess.Popen(["true"])
        told = read_last_pid()
        child.wait()
        # Others may have forked in between.
        return told == child.pid

    assert until(is_told)


def test_a_thousand_children_are_all_members(start, tree_of):
    guardian = start(
        "import os, sys\nfound = [os.posix_spawn('/bin/sleep', ['sleep', '600'], {}) for _ in range(1000)]\n"
        "print(*found, flush=True); sys.stdin.read()"
    )
    assert pids(tree_of(guardian.pid)) == numbers(guardian.said)


def test_once_the_guardian_is_dead_the_supervisors_own_children_are_the_job(start, tree_of):
    guardian = start("import sys; print('ready', flush=True); sys.stdin.read()")
    orphan = start("import sys; print('ready', flush=True); sys.stdin.read()")
    helper = start("import sys; print('ready', flush=True); sys.stdin.read()")
    others = {child.pid for child in psutil.Process().children()} - {guardian.pid, orphan.pid}
    tree = tree_of(guardian.pid, excluded=lambda: others | {helper.pid}, own_pid=os.getpid(), last_pid=lambda: 1)
    assert pids(tree) == set()
    guardian.kill()
    # Dead counts from the zombie on: a guardian that nobody reaps yet guards nothing any more.
    until(lambda: read_stat(guardian.pid).state == "Z")
    assert pids(tree) == {orphan.pid}


def test_an_attached_process_is_a_member_itself(start, tree_of):
    child = start("import subprocess, sys\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()")
    assert pids(tree_of(child.pid, has_anchors=True)) == {child.pid} | numbers(child.said)


def test_an_anchor_that_never_was_has_no_members(tree_of):
    assert tree_of(int(Path("/proc/sys/kernel/pid_max").read_text()) + 1).members() == ()


@pytest.mark.skipif(not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="needs root to choose the next PID")
def test_a_pid_given_to_somebody_else_is_no_member(start, tree_of):
    guardian = start(
        "import os, sys\nchild = os.fork()\nif child == 0: os.read(0, 1); os._exit(0)\n"
        "print(child, flush=True); os.wait(); print('reaped', flush=True); import signal; signal.pause()"
    )
    tree, reader = tree_of(guardian.pid), ProcessReader()
    (ref,) = tree.members()
    assert reader.read(ref) is not None
    os.kill(ref.pid, signal.SIGKILL)
    assert guardian.stdout.readline() == "reaped\n"
    # A start time is told to 10 ms: within one clock tick a PID that came round again would have the very same identity.
    until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S > ref.start_ticks + 1)
    stranger = None
    for _ in range(200):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(ref.pid - 1))
        candidate = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
        if candidate.pid == ref.pid:
            stranger = candidate
            break
        candidate.communicate(b"\n")
    assert stranger is not None, "the PID could not be had again"
    try:
        assert read_stat(ref.pid).start_ticks != ref.start_ticks
        assert tree.members() == ()
        assert reader.read(ref) is None
    finally:
        stranger.communicate(b"\n")
        reader.close()


def test_a_tree_that_was_closed_finds_everybody_again_although_they_are_no_newcomers(start, tree_of):
    # With many threads a walk is dearer than a look for newcomers, and the host gives a number out meanwhile.
    guardian = start(
        f"import os, subprocess, threading\nfor _ in range(60): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True)\ntry: {WAIT}\nfinally: child.kill()"
    )
    tree = tree_of(guardian.pid, has_anchors=True)
    before = pids(tree)
    assert before == {guardian.pid, *numbers(guardian.said)}
    tree.close()
    subprocess.run(["true"], check=True)
    assert pids(tree) == before
