"""Repairs of living processes: real stopped processes, real full pipes, real stalled connections, and what must be left alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from act.jobs import state_of
from namespaces import require_unshare
from unsloth_watch.act.guardian import read_start_ticks
from unsloth_watch.act.live import Performed, Room, perform
from unsloth_watch.act.pipe import is_full
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.repair import Repair, Target
from waiting import until

pytestmark = pytest.mark.quick

PYTHON = [sys.executable, "-I", "-S", "-c"]


class Cast:
    """Processes of a test, and the room that a repair of them is given."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []
        self.complaints: list[str] = []

    def start(self, code: str, *argv: str, **options) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*PYTHON, code, *argv], stdout=subprocess.PIPE, **options)
        self.processes.append(process)
        return process

    def ref(self, pid: int) -> ProcessRef:
        ticks = read_start_ticks(pid)
        assert ticks is not None
        return ProcessRef(pid, ticks)

    def perform(self, kind: str, *targets: Target, members: tuple[ProcessRef, ...] | None = None) -> Performed:
        if members is None:
            members = tuple(ref for one in targets for ref in (one.process, one.writer) if ref is not None)
        room = Room(members, str(self.place / "kept"), str(self.place / "quarantine"), self.complaints.append)
        return perform(Repair(kind, "why", targets), room)

    def close(self) -> None:
        # A tracer before its tracee: nobody else may see the end of that one first.
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    cast = Cast(tmp_path)
    yield cast
    cast.close()


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


# Stopped processes ------------------------------------------------------------------------------------------------------------

STOPPING = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('on', flush=True)"


def test_a_stopped_process_is_continued_and_goes_on_from_where_it_was(cast: Cast) -> None:
    process = cast.start(STOPPING)
    until(lambda: state_of(process.pid) == "T")
    performed = cast.perform("continue-process", Target(cast.ref(process.pid), "the job"))
    assert performed.refused == ()
    assert performed.changes[0].undo == f"kill -STOP {process.pid}"
    assert line_of(process) == b"on\n"


def test_a_process_that_runs_by_now_is_not_touched(cast: Cast) -> None:
    process = cast.start("print(input())", stdin=subprocess.PIPE)
    performed = cast.perform("continue-process", Target(cast.ref(process.pid), "the job"))
    assert performed.changes == ()
    assert "no longer stopped" in performed.refused[0]


def test_a_process_that_is_not_of_the_job_or_got_the_number_anew_is_not_touched(cast: Cast) -> None:
    process = cast.start(STOPPING)
    until(lambda: state_of(process.pid) == "T")
    ref = cast.ref(process.pid)
    earlier = ProcessRef(ref.pid, ref.start_ticks - 1)
    for target, members in ((Target(ref, "x"), ()), (Target(earlier, "x"), (earlier,))):
        performed = cast.perform("continue-process", target, members=members)
        assert performed.changes == ()
        assert "no longer the process" in performed.refused[0]
    assert state_of(process.pid) == "T"


def test_a_traced_process_belongs_to_its_tracer(cast: Cast) -> None:
    process = cast.start(STOPPING)
    until(lambda: state_of(process.pid) == "T")
    tracer = cast.start(
        "import ctypes, sys; c = ctypes.CDLL(None); pid = int(sys.argv[1]);"
        "assert c.ptrace(0x4206, pid, None, None) == 0; print('ready', flush=True); sys.stdin.read()",  # PTRACE_SEIZE
        str(process.pid),
        stdin=subprocess.PIPE,
    )
    assert line_of(tracer) == b"ready\n", "the machine does not let a sibling trace; run as root or with ptrace_scope 0"
    performed = cast.perform("continue-process", Target(cast.ref(process.pid), "the job"))
    assert performed.changes == ()
    assert f"PID {tracer.pid} traces it" in performed.refused[0] or "no longer stopped" in performed.refused[0]


def test_a_background_job_that_asks_its_terminal_is_not_continued_in_vain(cast: Cast) -> None:
    master, slave = os.openpty()
    # setsid -c makes the terminal the controlling one; the child leaves the foreground group and reads.
    code = (
        "import os, sys\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setpgid(0, 0); os.read(0, 1); os._exit(0)\n"
        "os.write(1, b'%d\\n' % pid)\n"
        "os.waitpid(pid, 0)\n"
    )
    process = subprocess.Popen(["setsid", "-c", *PYTHON, code], stdin=slave, stdout=subprocess.PIPE)
    cast.processes.append(process)
    os.close(slave)
    child = int(line_of(process))
    until(lambda: state_of(child) == "T")
    performed = cast.perform("continue-process", Target(cast.ref(child), "the reader"))
    os.kill(child, signal.SIGKILL)
    os.close(master)
    assert performed.changes == ()
    assert "SIGTTIN" in performed.refused[0]


# Full pipes -------------------------------------------------------------------------------------------------------------------

READER = """
import subprocess, sys, hashlib
pour = "import sys\\nfor n in range(int(sys.argv[1])): sys.stdout.write('%09d\\\\n' % n)"
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", pour, sys.argv[1]], stdout=subprocess.PIPE)
print(child.pid, child.stdout.fileno(), flush=True)
child.wait()
print(hashlib.sha256(child.stdout.read()).hexdigest(), flush=True)
"""


def pour(lines: int) -> str:
    return hashlib.sha256("".join(f"{n:09d}\n" for n in range(lines)).encode()).hexdigest()


def start_reader(cast: Cast, lines: int, *, is_drainable: bool) -> tuple[subprocess.Popen[bytes], Target]:
    process = cast.start(READER, str(lines))
    child, fd = map(int, line_of(process).split())
    name = os.readlink(f"/proc/{process.pid}/fd/{fd}")
    end = os.open(f"/proc/{process.pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
    until(lambda: is_full(end, fcntl.fcntl(end, fcntl.F_GETPIPE_SZ)))
    os.close(end)
    return process, Target(cast.ref(process.pid), name, fd, cast.ref(child), is_drainable)


def test_a_full_pipe_is_widened_and_its_reader_gets_every_byte(cast: Cast) -> None:
    process, target = start_reader(cast, 30_000, is_drainable=True)  # 300 kB
    performed = cast.perform("relieve-pipe", target)
    assert [change.kind for change in performed.changes] == ["pipe"]
    assert line_of(process).decode().strip() == pour(30_000)


def test_what_does_not_fit_is_kept_and_given_back_in_order(cast: Cast) -> None:
    process, target = start_reader(cast, 700_000, is_drainable=True)  # 7 MB, seven times the widest pipe
    performed = cast.perform("relieve-pipe", target)
    assert [change.kind for change in performed.changes] == ["drain"]
    assert line_of(process).decode().strip() == pour(700_000)
    kept = Path(performed.changes[0].after or "")
    # The reader has read the rest out of the pipe; the file is whole.
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == pour(700_000)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cast.complaints == []


def test_a_disk_that_is_full_before_all_is_kept_costs_no_byte_and_no_order(cast: Cast) -> None:
    reader = READER.replace("print(hash", "data = child.stdout.read(); print(len(data), hash").replace(
        "child.stdout.read())", "data)"
    )
    process = cast.start(reader, "700000")
    child, fd = map(int, line_of(process).split())
    target = Target(cast.ref(process.pid), os.readlink(f"/proc/{process.pid}/fd/{fd}"), fd, cast.ref(child), True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_005, before[1]))
    try:
        until(lambda: cast.perform("relieve-pipe", target).changes)
        until(lambda: cast.complaints)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "takes no more" in cast.complaints[0]
    os.kill(child, signal.SIGKILL)  # it waits again, and the supervisor ends it
    size, digest = line_of(process).decode().split()
    assert 2_000_005 < int(size) < 7_000_000
    assert digest == hashlib.sha256("".join(f"{n:09d}\n" for n in range(700_000))[: int(size)].encode()).hexdigest()
    assert len(cast.complaints) == 1


def test_nothing_is_taken_out_of_a_pipe_whose_reader_may_read_at_any_time(cast: Cast) -> None:
    process, target = start_reader(cast, 700_000, is_drainable=False)
    performed = cast.perform("relieve-pipe", target)
    assert performed.changes == ()
    assert "may read at any time" in performed.refused[0]
    assert not (cast.place / "kept").exists()
    assert state_of(process.pid) == "S"


def test_a_pipe_that_somebody_outside_holds_too_is_left_alone(cast: Cast) -> None:
    _, target = start_reader(cast, 30_000, is_drainable=True)
    end = os.open(f"/proc/{target.process.pid}/fd/{target.fd}", os.O_RDONLY | os.O_NONBLOCK)
    stranger = cast.start("print('ready', flush=True); input()", stdin=subprocess.PIPE, pass_fds=(end,))
    os.close(end)
    assert line_of(stranger) == b"ready\n"
    performed = cast.perform("relieve-pipe", target)
    assert performed.changes == ()
    assert f"PID {stranger.pid}" in performed.refused[0]


def test_a_reader_that_dies_while_bytes_are_kept_ends_the_keeping(cast: Cast) -> None:
    slow = READER.replace("sys.stdout.write", "(n < 200_000 or sys.stdin.read()) and sys.stdout.write")
    process = cast.start(slow, "700000", stdin=subprocess.PIPE)
    child, fd = map(int, line_of(process).split())
    name = os.readlink(f"/proc/{process.pid}/fd/{fd}")
    target = Target(cast.ref(process.pid), name, fd, cast.ref(child), True)
    until(lambda: cast.perform("relieve-pipe", target).changes)
    until(lambda: state_of(process.pid) == "T")
    process.kill()
    os.kill(child, signal.SIGKILL)

    def holds_no_end() -> bool:
        return not any(
            os.readlink(f"/proc/self/fd/{fd}") == name
            for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")
        )

    until(holds_no_end)


# Connections ------------------------------------------------------------------------------------------------------------------

CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(connection.fileno(), flush=True)
print(connection.recv(10), flush=True)
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_silent_connection_ends_for_its_reader_and_only_that_one(cast: Cast, silent: socket.socket) -> None:
    client = cast.start(CLIENT, str(silent.getsockname()[1]))
    fd = int(line_of(client))
    name = os.readlink(f"/proc/{client.pid}/fd/{fd}")
    performed = cast.perform("shut-down-connection", Target(cast.ref(client.pid), name, fd))
    assert performed.refused == ()
    assert f"127.0.0.1:{silent.getsockname()[1]}" in performed.changes[0].target
    assert line_of(client) == b"b''\n"


def test_a_descriptor_that_is_another_socket_by_now_is_left_alone(cast: Cast, silent: socket.socket) -> None:
    client = cast.start(CLIENT, str(silent.getsockname()[1]))
    fd = int(line_of(client))
    performed = cast.perform("shut-down-connection", Target(cast.ref(client.pid), "socket:[1]", fd))
    assert performed.changes == ()
    assert "not waited on any more" in performed.refused[0]
    server, _ = silent.accept()
    with server:
        server.sendall(b"alive")
        assert line_of(client) == b"b'alive'\n"


def test_a_unix_socket_is_no_connection_to_shut_down(cast: Cast) -> None:
    here, there = socket.socketpair()
    with here, there:
        process = cast.start("print('ready', flush=True); input()", stdin=subprocess.PIPE, pass_fds=(there.fileno(),))
        assert line_of(process) == b"ready\n"
        name = os.readlink(f"/proc/{process.pid}/fd/{there.fileno()}")
        performed = cast.perform("shut-down-connection", Target(cast.ref(process.pid), name, there.fileno()))
        assert "no TCP connection" in performed.refused[0]
        there.sendall(b"x")
        assert here.recv(1) == b"x"


# Directories ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiter(cast: Cast) -> ProcessRef:
    process = cast.start("print('ready', flush=True); input()", stdin=subprocess.PIPE)
    assert line_of(process) == b"ready\n"
    return cast.ref(process.pid)


def test_a_missing_directory_is_made_in_an_existing_one_only(cast: Cast, waiter: ProcessRef, tmp_path: Path) -> None:
    missing = tmp_path / "cache"
    performed = cast.perform("make-directory", Target(waiter, str(missing)), Target(waiter, str(tmp_path / "no" / "such")))
    assert missing.is_dir()
    assert [change.undo for change in performed.changes] == [f"rmdir {missing}"]
    assert "only one missing directory" in performed.refused[0]


def test_a_directory_of_the_jobs_own_gets_its_owners_rights_back(cast: Cast, waiter: ProcessRef, tmp_path: Path) -> None:
    closed = tmp_path / "cache"
    closed.mkdir(mode=0o555)
    performed = cast.perform("make-directory", Target(waiter, str(closed)))
    assert closed.stat().st_mode & 0o777 == 0o755
    assert performed.changes[0].undo == f"chmod 555 {closed}"


def test_no_directory_is_made_for_a_process_that_sees_other_file_systems(cast: Cast, tmp_path: Path) -> None:
    words = [*require_unshare("--mount"), *PYTHON, "print('ready', flush=True); input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert line_of(process) == b"ready\n"
        performed = cast.perform("make-directory", Target(cast.ref(process.pid), str(tmp_path / "cache")))
        process.communicate(b"\n")
    assert "has file systems of its own" in performed.refused[0]
    assert not (tmp_path / "cache").exists()


def test_a_file_in_the_place_of_a_directory_stays(cast: Cast, waiter: ProcessRef, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("somebody's")
    performed = cast.perform("make-directory", Target(waiter, str(tmp_path / "cache")))
    assert performed.changes == ()
    assert (tmp_path / "cache").read_text() == "somebody's"
