"""Lock files of dead owners: moved aside under a waiter, and nothing that anybody may still hold."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unsloth_watch.act.change import MendError
from unsloth_watch.act.orphanlock import doubt_place, find_mount, has_lived, release, set_aside
from unsloth_watch.act.quarantine import read_manifest, restore

pytestmark = pytest.mark.quick


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file that was made a minute ago by nobody who lives."""
    doubt = doubt_place(*find_mount(str(tmp_path)), sees_all=os.readlink("/proc/self/ns/pid") == "pid:[4026531836]")
    if doubt is not None:
        pytest.skip(f"{tmp_path}: {doubt}; set TMPDIR to a directory of the container's own file system")
    path = tmp_path / "data.lock"
    path.touch()
    age(path)
    return path


def age(path: Path, seconds: float = 60.0) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_an_orphan_is_moved_aside_and_can_be_brought_back(lock: Path, tmp_path: Path) -> None:
    lock.write_text(f"{dead_pid()}\n{socket.gethostname()}\n")
    change = release(str(lock), str(tmp_path / "quarantine"))
    assert not lock.exists()
    assert change.undo == f"mv {change.after} {lock}"
    assert restore(str(tmp_path / "quarantine")) == (str(lock),)
    assert lock.exists()


def test_a_lock_that_names_a_living_owner_stays(lock: Path, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lock.write_text(f"{sleeper.pid}\n")
    with pytest.raises(MendError, match="lives"):
        release(str(lock), str(tmp_path / "quarantine"))
    assert lock.exists()


def test_a_number_that_was_given_anew_since_is_no_owner(lock: Path, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    lock.write_text(f"{sleeper.pid}\n")
    age(lock, 3600)  # an hour before that process was born
    assert not has_lived(sleeper.pid, lock.stat().st_mtime)
    assert has_lived(sleeper.pid, time.time())
    release(str(lock), str(tmp_path / "quarantine"))
    assert not lock.exists()


def test_a_lock_that_somebody_has_open_for_writing_stays(lock: Path, tmp_path: Path) -> None:
    with lock.open("w"):
        age(lock)
        with pytest.raises(MendError, match=f"PID {os.getpid()} has it open"):
            release(str(lock), str(tmp_path / "quarantine"))
    with lock.open():  # a waiter that only looks who owns it is no owner
        release(str(lock), str(tmp_path / "quarantine"))
    assert not lock.exists()


def test_a_lock_of_another_host_or_one_just_made_stays(lock: Path, tmp_path: Path) -> None:
    lock.write_text("1234\nelsewhere.example\n")
    with pytest.raises(MendError, match=r"host elsewhere\.example"):
        release(str(lock), str(tmp_path / "quarantine"))
    lock.write_text("")
    with pytest.raises(MendError, match="just been made"):
        release(str(lock), str(tmp_path / "quarantine"))
    assert lock.exists()


@pytest.mark.parametrize("words", ["1\nanother-host\n", f"{os.getpid()}\n"], ids=["another host", "a living owner"])
def test_between_attempts_too_a_lock_that_names_a_possible_owner_stays(tmp_path: Path, words: str) -> None:
    lock = tmp_path / "data.lock"
    lock.write_text(words)
    with pytest.raises(MendError, match="names the host|lives"):
        set_aside(str(lock), str(tmp_path / "quarantine"))
    assert lock.read_text() == words


def test_a_baton_that_somebody_elses_builder_took_since_stays(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print(flush=True); input()"  # as torch's FileBaton does
    command = [sys.executable, "-I", "-S", "-c", code, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        builder.stdout.readline()
        with pytest.raises(MendError, match=f"PID {builder.pid} has it open"):
            set_aside(str(lock), str(tmp_path / "quarantine"))
        assert lock.exists()
        builder.communicate(b"\n")
    set_aside(str(lock), str(tmp_path / "quarantine"))
    assert not lock.exists()


def test_a_flock_file_in_use_and_a_link_stay(lock: Path, tmp_path: Path) -> None:
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MendError, match="holds the lock"):
            release(str(lock), str(tmp_path / "quarantine"))
    link = tmp_path / "link.lock"
    link.symlink_to(lock)
    with pytest.raises(MendError, match="no regular file"):
        release(str(link), str(tmp_path / "quarantine"))
    assert lock.exists()
    assert link.is_symlink()


def test_of_two_supervisors_one_moves_it_and_the_new_owners_lock_survives(lock: Path, tmp_path: Path) -> None:
    """Whoever comes second finds a lock that the first one's waiter has taken, or none: never does it move a living one."""

    def work(number: int) -> str:
        try:
            release(str(lock), str(tmp_path / f"quarantine-{number}"))
        except MendError as error:
            return str(error)
        # The waiter of this supervisor takes the lock at once.
        taken.append(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return "moved"

    for _ in range(8):
        taken: list[int] = []
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(work, range(4)))
        assert said.count("moved") == 1, said
        assert os.fstat(taken[0]).st_nlink == 1
        assert lock.stat().st_ino == os.fstat(taken[0]).st_ino
        os.close(taken[0])
        age(lock)
    # What was moved is all there.
    assert sum(len(read_manifest(str(tmp_path / f"quarantine-{number}"))) for number in range(4)) == 8


def test_a_quarantine_on_another_file_system_takes_it_whole(lock: Path, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a writable /dev/shm on a file system of its own; mount a tmpfs there")
    quarantine = shm / f"unsloth-watch-test-{os.getpid()}"
    lock.write_text(f"{dead_pid()}\n")
    try:
        change = release(str(lock), str(quarantine))
        assert Path(change.after or "").read_text().strip().isdecimal()
        assert not lock.exists()
        assert [path.name for path in tmp_path.iterdir()] == []
        assert restore(str(quarantine)) == (str(lock),)
    finally:
        subprocess.run(["rm", "-r", str(quarantine)], check=True)


def test_the_file_system_of_a_path_is_the_innermost_mount(tmp_path: Path) -> None:
    assert find_mount("/proc/self/mounts") == ("proc", "/proc")
    assert find_mount(str(tmp_path))[0] not in (None, "proc")


def test_a_place_that_others_may_use_unseen_is_doubted() -> None:
    assert doubt_place("ext4", "/", sees_all=True) is None
    assert doubt_place("ext4", "/data", sees_all=True) is None
    assert "other machines" in (doubt_place("nfs4", "/home", sees_all=True) or "")
    assert doubt_place(None, "/", sees_all=True) is not None
    assert "other containers" in (doubt_place("ext4", "/cache", sees_all=False) or "")
    assert doubt_place("overlay", "/", sees_all=False) is None
