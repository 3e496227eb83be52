"""File locks: the kernel's lines, and who holds what a job waits for."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.descriptors import parse_fdinfo, read_open_files
from unsloth_watch.capture.locks import LockedFile, LockLine, join_locks, list_lock_files, parse_locks
from unsloth_watch.capture.process import read_start
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from waiting import until

TEXT = """1: POSIX  ADVISORY  WRITE 6226 fe:00:402117 0 EOF
2: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF
2: -> FLOCK  ADVISORY  READ  360 00:13:11691 0 EOF
3: OFDLCK ADVISORY  READ  -1 fe:00:77 0 99
4: LEASE  ACTIVE    WRITE 12 fe:00:78 0 EOF
"""

HOLD = {
    "flock": "import fcntl, sys, time\nf = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('ready'); time.sleep(500)",
    "fcntl": "import fcntl, sys, time\nf = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('ready'); time.sleep(500)",
}
WANT = {
    "flock": "import fcntl, sys\nf = open(sys.argv[1], 'w'); print('ready'); fcntl.flock(f, fcntl.LOCK_EX)",
    "fcntl": "import fcntl, sys\nf = open(sys.argv[1], 'w'); print('ready'); fcntl.lockf(f, fcntl.LOCK_EX)",
}


def look_at(*targets, **options) -> Evidence:
    return capture([target.ref for target in targets], targets[0].ref, at=time.monotonic(), clock=time.monotonic, **options)


@pytest.mark.quick
def test_the_lines_of_the_kernel_are_understood():
    assert parse_locks(TEXT) == (
        LockLine("POSIX", "WRITE", 6226, "fe:00", 402117, start=0),
        LockLine("FLOCK", "WRITE", 359, "00:13", 11691, start=0),
        LockLine("FLOCK", "READ", 360, "00:13", 11691, is_waiter=True, start=0),
        LockLine("OFDLCK", "READ", -1, "fe:00", 77, start=0),
    )


@pytest.mark.quick
@given(st.text(max_size=200), st.integers(0, len(TEXT)))
def test_no_text_breaks_the_parser(text, cut):
    parse_locks(text)
    lines = parse_locks(TEXT[:cut] + "\n" + text + "\n" + TEXT[cut:])
    assert all(line.kind in {"FLOCK", "POSIX", "OFDLCK"} and line.inode >= 0 for line in lines)


@pytest.mark.quick
@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser_of_descriptors(raw):
    assert parse_fdinfo(3, "/x", raw).fd == 3


@pytest.mark.quick
def test_a_device_that_stat_does_not_show_is_joined_by_the_inode_when_only_one_path_has_it():
    lines = parse_locks(TEXT)
    one = [LockedFile("/overlay/a.lock", 11691, "00:99")]
    two = [*one, LockedFile("/other/b", 11691, "00:98")]
    assert {lock.path for lock in join_locks(lines, one, {360}) if lock.inode == 11691} == {"/overlay/a.lock"}
    assert {lock.path for lock in join_locks(lines, two, {360}) if lock.inode == 11691} == {None}
    exact = [*two, LockedFile("/right", 11691, "00:13")]
    assert {lock.path for lock in join_locks(lines, exact, {360}) if lock.inode == 11691} == {"/right"}


@pytest.mark.quick
def test_locks_of_strangers_on_strange_files_are_left_out():
    assert join_locks(parse_locks(TEXT), [], {1}) == ()


@pytest.mark.parametrize("kind", HOLD)
def test_a_lock_that_is_held_outside_names_path_and_holder(start, tmp_path, kind):
    path = str(tmp_path / "model.lock")
    holder = start(HOLD[kind], path)
    waiter = start(WANT[kind], path)
    waiter.await_call(kind)
    evidence = look_at(waiter)
    held = next(lock for lock in evidence.locks if not lock.is_waiter)
    wanted = next(lock for lock in evidence.locks if lock.is_waiter)
    assert (held.path, held.pid, held.is_inside) == (path, holder.pid, False)
    assert path in (held.holder_command or "")
    assert (wanted.path, wanted.pid, wanted.is_inside) == (path, waiter.pid, True)
    main = evidence.processes[0].main_thread
    assert main is not None
    assert f"→ {path}" in (main.wait or "")
    assert not [words for words in evidence.missing if "lock" in words]


def test_a_lock_that_is_held_inside_is_said_to_be_inside(start, tmp_path):
    path = str(tmp_path / "model.lock")
    holder = start(HOLD["flock"], path)
    waiter = start(WANT["flock"], path)
    waiter.await_call("flock")
    evidence = look_at(waiter, holder)
    assert all(lock.is_inside for lock in evidence.locks)
    assert len(evidence.locks) == 2


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_flock_whose_taker_has_ended_is_held_by_the_child_that_inherited_it(start, tmp_path, is_inside):
    path = str(tmp_path / "model.lock")
    taker = start(
        "import fcntl, os, subprocess, sys\nf = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "p = subprocess.Popen(['sleep', '500'], pass_fds=[f.fileno()])\nprint('ready'); print(p.pid); os._exit(0)",
        path,
    )
    heir = int(taker.line())
    taker.process.wait()
    waiter = start(WANT["flock"], path)
    waiter.await_call("flock")
    until(lambda: any(file.locks for file in read_open_files(heir)))
    members = [waiter.ref]
    if is_inside:
        members.append(ProcessRef(heir, read_start(heir)))
    evidence = capture(members, waiter.ref, at=time.monotonic(), clock=time.monotonic)
    held = next(lock for lock in evidence.locks if not lock.is_waiter)
    assert held.pid == heir
    assert held.is_inside is is_inside
    assert "sleep 500" in (held.holder_command or "")


def test_an_open_file_description_lock_is_given_to_the_process_that_has_it_open(start, tmp_path):
    path = str(tmp_path / "model.lock")
    program = (
        "import fcntl, struct, sys, time\nf = open(sys.argv[1], 'w'); {}\n"
        "fcntl.fcntl(f, {}, struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0)); {}time.sleep(500)"
    )
    holder = start(program.format("", 37, "print('ready'); "), path)
    waiter = start(program.format("print('ready')", 38, ""), path)
    waiter.await_call("fcntl")
    evidence = look_at(waiter)
    held = next(lock for lock in evidence.locks if not lock.is_waiter)
    assert (held.kind, held.path, held.pid, held.is_inside) == ("OFDLCK", path, holder.pid, False)
    main = evidence.processes[0].main_thread
    assert main is not None
    assert (main.wait or "").startswith("waits for the fcntl lock of the open file on fd 3 → ")


def test_a_lock_file_in_a_given_directory_counts_although_nobody_of_the_job_has_it_open(start, tmp_path):
    path = str(tmp_path / "model.lock")
    holder = start(HOLD["flock"], path)
    other = start("import time; print('ready'); time.sleep(500)")
    assert look_at(other).locks == ()
    locks = look_at(other, lock_directories=[str(tmp_path), "/nonexistent"]).locks
    assert [(lock.path, lock.pid) for lock in locks] == [(path, holder.pid)]


def test_descriptors_show_place_position_flags_and_inode(start, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(100))
    target = start(
        "import os, sys\nfd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND); os.lseek(fd, 42, 0); print('ready'); input()", path
    )
    file = next(file for file in read_open_files(target.pid) if file.target == str(path))
    assert file.offset == 42
    assert file.flags is not None
    assert file.flags & os.O_APPEND
    assert file.flags & os.O_ACCMODE == os.O_RDWR
    assert file.inode == path.stat().st_ino


def test_only_some_files_of_a_huge_directory_are_looked_at(tmp_path):
    for number in range(5):
        (tmp_path / str(number)).touch()
    assert len(list_lock_files([str(tmp_path)], limit=3)) == 3
