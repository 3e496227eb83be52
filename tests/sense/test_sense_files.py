"""Open files of real processes: how far they were read and written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.mounts import LOCAL, MountTable, _read_mounts

STEPS = (
    "import os, sys\nfile = open(sys.argv[1], 'rb', buffering=0)\nprint('ready', flush=True)\n"
    "for line in sys.stdin:\n    exec(line); print('done', flush=True)"
)


def do(child, code):
    child.stdin.write(code + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def find(files, path):
    return [file for file in files if file.path == str(path)]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(100_000))
    return path


def test_a_file_that_is_read_and_read_again_shows_its_offset(start, ref_of, data):
    child = start(STEPS, str(data))
    refs, reader = (ref_of(child.pid),), FileReader(round_every=1)
    (before,) = find(reader.read(refs), data)
    assert (before.offset, before.size, before.is_writer) == (0, 100_000, False)
    assert (before.device, before.inode) == (os.stat(data).st_dev, os.stat(data).st_ino)
    do(child, "file.read(60_000)")
    assert find(reader.read(refs), data)[0].offset == 60_000
    do(child, "file.seek(0); file.read(10)")
    assert find(reader.read(refs), data)[0].offset == 10
    do(child, "file.close()")
    assert find(reader.read(refs), data) == []


def test_two_descriptors_of_one_file_are_one_file_at_its_furthest(start, ref_of, data):
    child = start(STEPS, str(data))
    do(child, "file.read(7); other = open(sys.argv[1], 'r+b', buffering=0); other.seek(5000)")
    (seen,) = find(FileReader(round_every=1).read((ref_of(child.pid),)), data)
    assert (seen.offset, seen.is_writer) == (5000, True)


def test_a_file_that_grows_and_is_deleted_is_still_seen(start, ref_of, data):
    child = start(STEPS, str(data))
    refs, reader = (ref_of(child.pid),), FileReader(round_every=1)
    new = data.with_name("new.bin")
    do(child, f"out = open({str(new)!r}, 'wb', buffering=0); out.write(b'x' * 4096)")
    assert [(file.size, file.is_writer) for file in find(reader.read(refs), new)] == [(4096, True)]
    new.unlink()
    do(child, "out.write(b'x' * 4096)")
    assert [file.size for file in find(reader.read(refs), f"{new} (deleted)")] == [8192]


def test_pipes_devices_directories_and_memory_are_no_files(start, ref_of, data):
    child = start(STEPS, str(data))
    do(
        child,
        "os.pipe(); os.open('/tmp', os.O_RDONLY); os.open('/dev/zero', os.O_RDONLY); os.memfd_create('m'); open('/proc/self/stat')",
    )
    do(child, "os.open(sys.argv[1], os.O_PATH); import socket; keep = socket.socketpair()")
    assert [file.path for file in FileReader(round_every=1).read((ref_of(child.pid),))] == [str(data)]


def test_more_descriptors_than_the_allowance_are_all_found_in_turns_and_kept_fresh(start, ref_of, tmp_path, data):
    child = start(STEPS, str(data))
    do(child, f"files = [open({str(tmp_path)!r} + f'/{{n}}', 'wb', buffering=0) for n in range(100)]")
    refs, reader = (ref_of(child.pid),), FileReader(most=16, round_every=1)
    counts = [len(reader.read(refs)) for _ in range(30)]
    assert counts[0] <= 16
    assert counts[-1] == 101
    do(child, "[f.write(b'12345') for f in files]")
    for _ in range(30):
        seen = reader.read(refs)
    assert sum(file.offset for file in seen) == 500


def test_a_new_file_shows_when_the_next_round_of_the_search_begins(start, ref_of, data):
    child = start(STEPS, str(data))
    refs, reader = (ref_of(child.pid),), FileReader(round_every=3)
    assert len(reader.read(refs)) == 1
    do(child, f"out = open({str(data) + '.new'!r}, 'wb')")
    assert [len(reader.read(refs)) for _ in range(4)] == [1, 1, 2, 2]


def test_a_file_that_stood_still_is_looked_at_again_after_a_round_and_one_that_moves_at_every_tick(start, ref_of, data):
    child = start(STEPS, str(data))
    refs, reader = (ref_of(child.pid),), FileReader(round_every=3)
    reader.read(refs)
    reader.read(refs)  # the second look: it stands still
    do(child, "file.read(1000)")
    assert [find(reader.read(refs), data)[0].offset for _ in range(3)] == [0, 0, 1000]
    for offset in (2000, 3000, 4000):
        do(child, "file.read(1000)")
        assert find(reader.read(refs), data)[0].offset == offset


def test_a_process_that_ended_takes_its_files_along(start, ref_of, data):
    child = start(STEPS, str(data))
    ref, reader = ref_of(child.pid), FileReader(round_every=1)
    assert len(reader.read((ref,))) == 1
    child.kill()
    child.wait()
    assert reader.read((ref,)) == ()
    assert reader.read(()) == ()


def test_a_process_without_a_gpu_holds_none_and_one_that_was_not_looked_through_is_unknown(start, ref_of, data):
    child = start(STEPS, str(data))
    ref = ref_of(child.pid)
    patient, hasty = FileReader(round_every=1), FileReader(most=1, round_every=1)
    patient.read((ref,))
    hasty.read((ref,))
    assert patient.gpu_knowledge() == {ref.pid: False}
    assert hasty.gpu_knowledge() == {}


@pytest.mark.skipif(os.getuid() != 0 or os.path.exists("/dev/nvidia7"), reason="needs root to make a device node of that name")
def test_a_process_that_holds_a_gpu_device_is_a_holder_until_it_lets_go(start, ref_of, data):
    # A node of NVIDIA's name over the null device: the name is what /proc shows, and all that is looked at.
    os.mknod("/dev/nvidia7", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    try:
        child = start(STEPS, str(data))
        refs, reader = (ref_of(child.pid),), FileReader(round_every=1)
        do(child, "gpu = open('/dev/nvidia7', 'rb', buffering=0)")
        reader.read(refs)
        assert reader.gpu_knowledge() == {child.pid: True}
        do(child, "gpu.close()")
        reader.read(refs)
        assert reader.gpu_knowledge() == {child.pid: False}
    finally:
        os.unlink("/dev/nvidia7")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user: run the tests as root once")
def test_where_no_process_may_be_read_the_files_are_unknown(start, ref_of, data):
    ref = ref_of(start(STEPS, str(data)).pid)
    code = (
        "import sys, os\nfrom unsloth_watch.model.process import ProcessRef\nfrom unsloth_watch.sense.files import FileReader\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "reader = FileReader(round_every=1)\nprint(reader.read((ProcessRef(int(sys.argv[1]), int(sys.argv[2])),)), reader.gpu_knowledge())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ref.pid), str(ref.start_ticks)], capture_output=True, check=True, text=True
    )
    assert done.stdout == "None {}\n"


def test_a_file_system_that_is_not_known_as_local_is_not_asked_for_sizes(start, ref_of, data, monkeypatch):
    kinds = {line.split(" - ")[1].split()[0] for line in open_lines("/proc/self/mountinfo")}
    monkeypatch.setattr("unsloth_watch.sense.mounts.LOCAL", LOCAL - kinds)
    child = start(STEPS, str(data))
    do(child, "file.read(123)")
    (seen,) = find(FileReader(round_every=1).read((ref_of(child.pid),)), data)
    assert (seen.offset, seen.size) == (123, None)
    assert seen.inode == os.stat(data).st_ino


def open_lines(path):
    with open(path) as file:
        return file.read().splitlines()


@pytest.mark.quick
def test_mounts_have_the_device_of_their_files():
    devices = {mount.device for mount in _read_mounts("self").values()}
    assert os.stat("/proc").st_dev in devices
    assert _read_mounts("0") == {}
    assert len(_read_mounts("self")) == len(open_lines("/proc/self/mountinfo"))
    table = MountTable()
    table.start_round()
    assert table.find(1 << 30, os.getpid()) is None


@pytest.mark.quick
def test_network_and_user_space_file_systems_are_not_local():
    assert LOCAL.isdisjoint(
        {"nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "ceph", "beegfs", "gpfs", "fuse", "fuseblk", "virtiofs", "afs"}
    )
