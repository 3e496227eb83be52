"""The command is started as if there were no supervisor, and its end is learnt exactly."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys

import pytest

from act.jobs import PYTHON
from unsloth_watch.act.exits import decode_status
from unsloth_watch.act.guardian import read_start_ticks, send_signal
from unsloth_watch.act.launch import Guardian, inherited_fds
from unsloth_watch.errors import EXIT_SUPERVISOR, LaunchError
from waiting import until


def test_every_exit_code_comes_back_verbatim_through_one_guardian(job):
    for code in range(256):
        job.start("sh", "-c", f"exit {code}")
        assert decode_status(job.wait().status) == (code, None)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMIN])
def test_death_by_a_signal_is_told_as_a_shell_tells_it(job, signum):
    job.start("sh", "-c", f"ulimit -c 0; kill -{int(signum)} $$")
    assert decode_status(job.wait().status) == (128 + signum, signum)


@pytest.mark.quick
def test_a_core_dump_does_not_change_the_signal():
    assert decode_status(signal.SIGSEGV | 0x80) == (128 + signal.SIGSEGV, signal.SIGSEGV)


def make_file(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_command_that_is_nowhere_in_path_is_not_found(job):
    with pytest.raises(LaunchError, match="cannot find no-such-command: not found in PATH") as caught:
        job.start("no-such-command")
    assert (caught.value.exit_code, caught.value.errno) == (127, errno.ENOENT)


def test_a_path_that_does_not_exist_is_not_found(job, tmp_path):
    with pytest.raises(LaunchError, match="no such file") as caught:
        job.start(str(tmp_path / "nothing"))
    assert caught.value.exit_code == 127


def test_a_directory_is_not_executable_and_is_called_a_directory(job, tmp_path):
    with pytest.raises(LaunchError, match="is a directory") as caught:
        job.start(str(tmp_path))
    assert (caught.value.exit_code, caught.value.errno) == (126, errno.EISDIR)


def test_a_file_without_the_execute_bit_is_not_executable(job, tmp_path):
    path = make_file(tmp_path / "train.py", "print()", 0o644)
    with pytest.raises(LaunchError, match="chmod") as caught:
        job.start(path)
    assert (caught.value.exit_code, caught.value.errno) == (126, errno.EACCES)


def test_a_script_without_an_interpreter_line_is_not_executable(job, tmp_path):
    path = make_file(tmp_path / "script", "echo hello\n")
    with pytest.raises(LaunchError, match="no #! line") as caught:
        job.start(path)
    assert (caught.value.exit_code, caught.value.errno) == (126, errno.ENOEXEC)


def test_a_missing_interpreter_is_not_taken_for_a_missing_command(job, tmp_path):
    path = make_file(tmp_path / "script", "#!/no/such/python\n")
    with pytest.raises(LaunchError, match="the interpreter of its first line") as caught:
        job.start(path)
    assert caught.value.exit_code == 126


def test_a_missing_working_directory_is_the_supervisors_failure(job, tmp_path):
    with pytest.raises(LaunchError, match=f"working directory {tmp_path}/gone") as caught:
        job.start("true", cwd=str(tmp_path / "gone"))
    assert caught.value.exit_code == EXIT_SUPERVISOR


def test_too_long_an_argument_list_says_so(job):
    with pytest.raises(LaunchError, match="too long together") as caught:
        job.start("true", *["x" * 100_000] * 100)
    assert caught.value.exit_code == 126


def test_a_failed_launch_does_not_spoil_the_next(job):
    with pytest.raises(LaunchError):
        job.start("no-such-command")
    assert job.run("echo", "hello") == (b"hello\n", 0)
    assert job.guardian.exits() == []


def test_the_search_path_is_that_of_the_given_environment(job, tmp_path):
    make_file(tmp_path / "train", "#!/bin/sh\necho found\n")
    assert job.run("train", environment={"PATH": f"/nowhere:{tmp_path}"})[0] == b"found\n"
    with pytest.raises(LaunchError, match="not found"):
        job.start("train", environment={"PATH": "/nowhere"})


def test_a_relative_command_is_looked_up_in_the_working_directory(job, tmp_path):
    make_file(tmp_path / "train", "#!/bin/sh\npwd\n")
    assert job.run("./train", cwd=str(tmp_path))[0] == f"{tmp_path}\n".encode()


def test_environment_and_arguments_arrive_byte_for_byte(job):
    odd = os.fsdecode(b"caf\xe9 \xff 'quoted' \n")
    code = "import os,sys; os.write(1, os.fsencode(sys.argv[1]) + b'|' + os.environb[b'ODD'])"
    output, _ = job.run(*PYTHON, code, odd, environment={"ODD": odd, "LC_ALL": "C.UTF-8"})
    assert output == os.fsencode(odd) + b"|" + os.fsencode(odd)


def test_the_environment_is_exactly_the_one_given(job):
    assert job.run("/usr/bin/env", environment={"A": "1", "B": "2"})[0] == b"A=1\nB=2\n"


def test_an_environment_larger_than_a_socket_buffer_arrives_whole(job):
    environment = {f"V{i}": "x" * 100_000 for i in range(15)}
    assert job.run("/bin/sh", "-c", "echo ${#V0} ${#V14}", environment=environment)[0] == b"100000 100000\n"


def test_no_descriptor_leaks_into_the_command(job):
    leaks = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    for fd in leaks:
        os.set_inheritable(fd, True)
    try:
        guardian, job.guardian = job.guardian, Guardian.spawn()
        guardian.close()
        output, _ = job.run(*PYTHON, "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
    finally:
        for fd in leaks:
            os.close(fd)
    assert output == b"[0, 1, 2]\n"


def test_descriptors_meant_for_the_command_keep_their_numbers(job):
    # What a shell's <(…) gives: found by their being inheritable, and passed on.
    wanted = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(wanted, 63, inheritable=True)
    os.close(wanted)
    try:
        assert 63 in inherited_fds()
        output, _ = job.run("readlink", "/proc/self/fd/63", pass_fds=[63])
    finally:
        os.close(63)
    assert output == b"/dev/zero\n"


def test_signals_are_at_their_defaults_and_none_is_blocked(job):
    # Python itself ignores SIGPIPE and SIGXFSZ, and the guardian nearly everything.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
    try:
        guardian, job.guardian = job.guardian, Guardian.spawn()
        guardian.close()
        output, _ = job.run("cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    masks = {
        line.split(b":")[0]: int(line.split()[1], 16)
        for line in output.splitlines()
        if line[:6] in (b"SigBlk", b"SigIgn", b"SigCgt")
    }
    # 32 and 33 belong to the C library: glibc's posix_spawn leaves them ignored, and lets nobody change that.
    c_library = 3 << 31
    assert [masks[name] & ~c_library for name in (b"SigBlk", b"SigIgn", b"SigCgt")] == [0, 0, 0]


def test_a_command_whose_reader_leaves_dies_of_sigpipe_as_in_a_shell(job):
    job.start("sh", "-c", "yes | head -n 1 >/dev/null; kill -l $((${PIPESTATUS:-141} - 128))")
    reader, writer = os.pipe()
    os.close(reader)
    started = job.guardian.start(["yes"], dict(os.environ), "/", 0, writer, 2)
    os.close(writer)
    ends = {}
    until(lambda: ends.update({end.pid: end.status for end in job.guardian.exits()}) or started.pid in ends)
    assert decode_status(ends[started.pid]) == (128 + signal.SIGPIPE, signal.SIGPIPE)


def test_the_command_leads_a_session_and_group_of_its_own(job):
    started = job.python("import os; print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getppid())")
    job.wait()
    assert job.drain() == f"True {job.guardian.pid}\n".encode()
    assert started.pid != job.guardian.pid


def test_the_identity_is_known_at_the_start(job):
    started = job.start("sleep", "600")
    assert read_start_ticks(started.pid) == started.start_ticks
    assert send_signal(started.pid, started.start_ticks, signal.SIGKILL)
    assert job.wait().pid == started.pid


def test_the_end_is_never_told_before_the_start(job):
    for _ in range(50):
        started = job.start("true")
        assert job.wait().pid == started.pid


def test_several_commands_at_a_time_are_told_apart(job):
    slow = job.python("import sys; sys.stdin.close(); import os; os.read(os.pipe()[0], 1)")
    quick = job.start("sh", "-c", "exit 3")
    end = job.wait()
    assert (end.pid, decode_status(end.status)[0]) == (quick.pid, 3)
    send_signal(slow.pid, slow.start_ticks, signal.SIGTERM)
    assert job.wait().pid == slow.pid


def test_a_killed_guardian_is_noticed_and_cannot_start_anything(job):
    assert job.run("true")[1] == 0
    assert not job.guardian.is_lost
    os.kill(job.guardian.pid, signal.SIGKILL)
    until(lambda: job.guardian.exits() or job.guardian.is_lost)
    assert not job.guardian.is_alive()
    with pytest.raises(LaunchError, match="guardian process") as caught:
        job.start("true")
    assert caught.value.exit_code == EXIT_SUPERVISOR


def test_a_hung_execution_is_given_up_in_time(job):
    # A guardian in a tracer's hands stands for an execve that does not come back; a merely stopped one is continued.
    assert job.run("true")[1] == 0
    pid = job.guardian.pid
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seize, interrupt, detach = 0x4206, 0x4207, 17
    if ptrace(seize, pid, None, None) != 0:
        pytest.skip(f"this machine lets nobody trace ({os.strerror(ctypes.get_errno())}); allow ptrace")
    assert ptrace(interrupt, pid, None, None) == 0
    os.waitpid(pid, 0)
    try:
        with pytest.raises(LaunchError, match=r"not executed after 0\.2 s") as caught:
            job.guardian.start(["true"], {}, "/", 0, 1, 2, timeout_s=0.2)
    finally:
        ptrace(detach, pid, None, None)
    assert caught.value.exit_code == EXIT_SUPERVISOR


def run_supervisor(supervisor, code: str) -> list[str]:
    process = supervisor(code)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return output.split()


def test_the_orphans_of_a_killed_guardian_come_to_the_supervisor_with_their_exit_status(supervisor):
    words = run_supervisor(
        supervisor,
        """
import os, select, signal, time
from unsloth_watch.act.exits import decode_status, reap_orphans
from unsloth_watch.act.guardian import become_subreaper
from unsloth_watch.act.launch import Guardian
assert become_subreaper()
guardian = Guardian.fork()
ready, ready_writer = os.pipe()
go, go_writer = os.pipe()
command = guardian.start(["sh", "-c", "echo ready; read line; exit 42"], dict(os.environ), "/", go, ready_writer, 2)
os.read(ready, 6)
os.kill(guardian.pid, signal.SIGKILL)
while not guardian.is_lost:
    select.select([guardian], [], [])
    assert guardian.exits() == []
while guardian.is_alive():
    time.sleep(0.001)
assert open(f"/proc/{command.pid}/stat").read().split()[3] == str(os.getpid())
assert reap_orphans() == []
os.write(go_writer, b"go\\n")
while not (ends := reap_orphans()):
    time.sleep(0.001)
print(ends[0].pid == command.pid, *decode_status(ends[0].status))
""",
    )
    assert words == ["True", "42", "None"]


def test_reaping_orphans_leaves_the_children_of_others_alone(supervisor):
    words = run_supervisor(
        supervisor,
        """
import os, subprocess, sys
from unsloth_watch.act.exits import reap_orphans
from unsloth_watch.act.launch import Guardian
others = [subprocess.Popen(["sh", "-c", "exit 7"]) for _ in range(3)]
orphan = os.fork()
if orphan == 0:
    os._exit(9)
guardian = Guardian.fork()
guardian.start(["true"], dict(os.environ), "/", 0, 1, 2)
os.kill(guardian.pid, 9)
for pid in (orphan, guardian.pid, *(other.pid for other in others)):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(*((end.pid == orphan, end.status >> 8) for end in reap_orphans(leave={other.pid for other in others})), sep="")
print(*(other.wait() for other in others), guardian.is_alive())
""",
    )
    assert words == ["(True,", "9)", "7", "7", "7", "False"]


def test_a_forked_guardian_neither_flushes_nor_exits_twice(supervisor, tmp_path):
    # Into a file by name: the guardian's standard descriptors are /dev/null and would hide it.
    process = supervisor(
        """
import atexit, os, sys
from unsloth_watch.act.launch import Guardian
book = open(sys.argv[1], "w")
book.write("buffered ")
def note():
    with open(sys.argv[1] + ".exits", "a") as exits:
        exits.write(f"{os.getpid()} ")
atexit.register(note)
guardian = Guardian.fork()
guardian.start(["true"], dict(os.environ), "/", 0, 1, 2)
assert guardian.close()
""",
        str(tmp_path / "book"),
    )
    assert process.wait(20) == 0
    assert (tmp_path / "book").read_text() == "buffered "
    assert (tmp_path / "book.exits").read_text() == f"{process.pid} "


def test_the_launch_path_imports_nothing_heavy():
    heavy = {"dataclasses", "typing", "subprocess", "msgspec", "json", "re", "inspect", "asyncio", "socket", "threading", "ctypes"}
    code = "import sys, unsloth_watch.act.launch, unsloth_watch.act.relay; print(*sys.modules)"
    # -S: an editable install's .pth files import things of their own.
    path = os.path.dirname(os.path.dirname(os.path.dirname(sys.modules["unsloth_watch.act.launch"].__file__)))
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert heavy & set(output.stdout.split()) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a command as somebody else")
def test_the_supervisor_may_trace_the_command_under_yama(job):
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            scope = int(file.read())
    except FileNotFoundError:
        pytest.skip("this kernel has no Yama, so nothing forbids tracing; boot one with CONFIG_SECURITY_YAMA=y")
    if scope != 1:
        pytest.skip(f"ptrace_scope is {scope}; the permission matters at 1 only (sysctl kernel.yama.ptrace_scope=1)")
    started = job.start("setpriv", "--reuid=65534", "--clear-groups", "sleep", "600")
    code = "import os,sys; os.setuid(65534); open(f'/proc/{sys.argv[1]}/mem','rb').close()"
    assert subprocess.run([*PYTHON, code, str(started.pid)], check=False).returncode == 0
