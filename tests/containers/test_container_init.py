"""As in a container: PID 1 of its own namespace, few rights, a read-only root, nobody in /etc/passwd, no /dev/shm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from namespaces import require_unshare
from waiting import until
from watched import PROGRAM, Watched

FAST = ("--interval", "0.1s", "--stall-timeout", "2s", "--grace", "0.5s", "--on-hang", "stop")


def as_init(watched: Watched, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start the program as PID 1 of a namespace; the process returned is ``unshare``, whose only child it is."""
    space = [*require_unshare("--pid", "--fork", "--mount-proc"), "--kill-child"]
    command = [*space, *PROGRAM, "--run-dir", str(watched.directory), "--interval", "0.1s", *options, "--", *words]
    return subprocess.Popen(
        command,
        cwd=watched.place,
        env=watched.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def find_init(unshare: subprocess.Popen[bytes], watched: Watched) -> psutil.Process:
    """Return the supervisor, once it has settled."""
    until((watched.directory / "run.json").exists)
    (child,) = psutil.Process(unshare.pid).children()
    return child


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -SEGV $$", 139), ("kill -KILL $$", 137)])
def test_as_init_the_status_is_the_commands_own_or_128_and_the_signal(watched: Watched, script: str, status: int) -> None:
    with as_init(watched, "sh", "-c", f"echo I am below $PPID; {script}") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == status, err.decode()
    assert b"I am below" in out


def test_as_init_it_passes_sigterm_on_and_ends(watched: Watched) -> None:
    with as_init(watched, "sh", "-c", "trap 'echo saved; exit 5' TERM; echo ready; while :; do sleep 0.1; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        find_init(process, watched).send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert out == b"saved\n"
    assert process.returncode == 5
    assert watched.summary()["outcome"] == "interrupted"


def test_as_init_everybodys_orphans_are_reaped(watched: Watched) -> None:
    with as_init(watched, "sh", "-c", "for i in 1 2 3; do (sleep 0.2 &); done; echo ready; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        init = find_init(process, watched)
        # As "docker exec" does: somebody enters, leaves a process behind and goes; it becomes a child of PID 1.
        user = ["--user"] if os.getuid() else []
        enter = ["nsenter", "--target", str(init.pid), "--pid", "--mount", *user, "sh", "-c", "sleep 0.3 & echo"]
        subprocess.run(enter, check=True, stdout=subprocess.DEVNULL)
        until(lambda: any(child.name() == "sleep" for child in init.children()))
        until(lambda: not any(child.name() == "sleep" for child in init.children()))
        zombies = [one for one in init.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
        until(lambda: not any(one.is_running() for one in zombies))
        init.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_without_any_capability_a_hang_is_found_and_its_evidence_is_whole(watched: Watched) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("dropping capabilities needs root and setpriv (apt-get install util-linux)")
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    job = watched.script("import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()")
    command = [*drop, *PROGRAM, "--run-dir", str(watched.directory), *FAST, "--", sys.executable, job]
    done = subprocess.run(command, cwd=watched.place, env=watched.environment(), capture_output=True, timeout=100, check=False)
    assert done.returncode == 124, done.stderr.decode()
    (captured,) = watched.events("incident.captured")
    assert all(phrase.startswith("kernel log") for phrase in captured["missing"]), captured["missing"]
    assert f"({job}:1)" in (watched.directory / "incidents/01/report.md").read_text(), "the stack of the job is in the report"


def in_root(watched: Watched, setting: str, *words: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run words in a mount namespace that a shell script has set up."""
    environment = watched.environment()
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    command = [*require_unshare("--mount", "--propagation", "private"), "sh", "-ec", f'{setting}\nexec "$@"', "sh", *words]
    return subprocess.run(command, cwd=watched.place, env=environment, capture_output=True, text=True, timeout=100, check=False)


# A root on which nothing can be written, as with --read-only.
READ_ONLY = "mount --rbind / /mnt; mount -o remount,bind,ro /mnt; cd /mnt; pivot_root . mnt; cd /"


def test_on_a_read_only_root_the_records_go_where_something_can_be_written(watched: Watched) -> None:
    if Path(PROGRAM[0]).is_relative_to("/tmp"):
        pytest.skip("the program lies in /tmp, which this test covers; run the tests from a checkout elsewhere")
    setting = f"{READ_ONLY}; mount -t tmpfs -o mode=1777 none /tmp"
    done = in_root(watched, setting, *PROGRAM, "--", "sh", "-c", "echo ran; exit 3", XDG_STATE_HOME="/nowhere", TMPDIR=None)
    assert (done.returncode, done.stdout) == (3, "ran\n"), done.stderr
    assert "Read-only file system" in done.stderr
    assert "used /tmp/" in done.stderr


def test_where_nothing_can_be_written_one_line_says_so_and_nothing_is_started(watched: Watched) -> None:
    done = in_root(watched, READ_ONLY, *PROGRAM, "--", "sh", "-c", "echo ran", XDG_STATE_HOME="/nowhere", TMPDIR=None)
    assert (done.returncode, done.stdout) == (78, "")
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_user_whom_nobody_knows_and_who_has_no_home_is_served(watched: Watched) -> None:
    setting = (
        ": > empty; mount --bind empty /etc/passwd; echo 'passwd: files' > switch;"
        " test ! -e /etc/nsswitch.conf || mount --bind switch /etc/nsswitch.conf"
    )
    temporary = watched.place / "tmp"
    temporary.mkdir()
    done = in_root(watched, setting, *PROGRAM, "--", "true", XDG_STATE_HOME=None, HOME=None, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert list(temporary.glob("unsloth-watch-*/runs/*/run.json"))
    assert not list(watched.place.glob("~*")), "a home that is not known must not become a directory called ~"


def test_without_shared_memory_a_hang_is_found(watched: Watched) -> None:
    setting = (
        "mkdir devices; mount -t tmpfs none devices; for n in null zero urandom random full; do touch devices/$n; mount --bind /dev/$n devices/$n; done;"
        " mount --rbind devices /dev; test ! -e /dev/shm"
    )
    done = in_root(watched, setting, *PROGRAM, "--run-dir", str(watched.directory), *FAST, "--", "sleep", "600")
    assert done.returncode == 124, done.stderr
    assert watched.events("hang.detected")


@pytest.mark.parametrize(
    ("status", "count", "is_requeued"), [(124, 0, True), (75, 2, True), (124, 3, False), (3, 0, False), (0, 0, False)]
)
def test_the_slurm_script_requeues_what_gave_up_and_nothing_else(
    watched: Watched, status: int, count: int, is_requeued: bool
) -> None:
    done, calls = run_script(watched, f"exit {status}", REQUEUE="yes", SLURM_RESTART_COUNT=str(count))
    assert done.returncode == status
    assert calls == (["requeue 77"] if is_requeued else [])


def test_the_slurm_script_becomes_the_supervisor(watched: Watched) -> None:
    done, calls = run_script(watched, "ps -o args= -p $PPID; exit 124")
    assert (done.returncode, calls) == (124, [])
    (run,) = (watched.place / "runs" / "train").iterdir()
    assert "-train-" in run.name


def run_script(watched: Watched, training: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the example for Slurm with a training and an ``scontrol`` of our own in its path; return its end and the calls."""
    tools = watched.place / "tools"
    tools.mkdir()
    for name, body in [
        ("python", training), ("scontrol", f'echo "$*" >> {watched.place}/calls'), ("unsloth-watch", f'exec {sys.executable} -m unsloth_watch "$@"'),
    ]:  # fmt: skip
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    environment = watched.environment(
        PATH=f"{tools}:{os.environ['PATH']}", HOME=str(watched.place), SLURM_JOB_NAME="train", SLURM_JOB_ID="77", **variables
    )
    script = Path(__file__).parents[2] / "configs" / "train.sbatch"
    done = subprocess.run(
        ["bash", str(script)], cwd=watched.place, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    calls = watched.place / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []
