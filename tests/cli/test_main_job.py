"""The main job as a user has it: exit statuses, streams, signals, the environment, bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from waiting import until
from watched import PROGRAM, Watched

SH = "/bin/sh"


@pytest.mark.parametrize("status", [0, 1, 7, 75, 124, 255])
def test_the_commands_own_status_is_passed_on(watched: Watched, status: int) -> None:
    assert watched.run(SH, "-c", f"exit {status}")[0] == status
    summary = watched.summary()
    assert (summary["outcome"], summary["exit_code"]) == ("completed" if status == 0 else "failed", status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_a_signal_that_ended_the_command_ends_the_supervisor_alike(watched: Watched, number: signal.Signals) -> None:
    status, _, _ = watched.run(SH, "-c", f"kill -{number} $$")
    assert status == -number
    finished = watched.events("attempt.finished")[0]
    assert (finished["exit_code"], finished["signal"]) == (128 + number, number.name)
    assert not list(watched.place.glob("core*"))


def test_what_cannot_be_started_is_said_and_leaves_nothing(watched: Watched) -> None:
    (watched.place / "plain").write_text("x")
    for word, status, words in [
        ("no-such-command", 127, b"cannot find no-such-command"),
        ("./no-such-file", 127, b"no such file"),
        ("./plain", 126, b"chmod +x"),
        ("/", 126, b"is a directory"),
    ]:
        code, out, err = watched.run(word)
        assert (code, out) == (status, b"")
        assert words in err
        assert err.count(b"\n") == 1
        assert not watched.directory.exists()


def test_both_streams_come_through_byte_by_byte_and_are_kept(watched: Watched) -> None:
    job = watched.script(
        """
        import os, sys
        data = bytes(range(256)) * 4096
        os.write(1, data[:1000]); sys.stdout.buffer.write(data); sys.stdout.flush()
        sys.stderr.buffer.write(b"err\\r\\n" + data[::-1]); sys.stderr.flush()
        """
    )
    _, out, err = watched.run(sys.executable, job, options=("--quiet",))
    data = bytes(range(256)) * 4096
    assert out == data[:1000] + data
    assert err == b"err\r\n" + data[::-1]
    assert len((watched.directory / "output.log").read_bytes()) == len(out) + len(err)


def test_standard_input_is_passed_on_or_null(watched: Watched) -> None:
    assert watched.run("cat", given=b"in\0put\n")[1] == b"in\0put\n"
    other = Watched(watched.place / "two")
    other.place.mkdir()
    assert other.run("cat", given=b"input", options=("--stdin", "null"))[1] == b""


def test_the_environment_has_our_markers_and_every_change_is_told(watched: Watched) -> None:
    _, out, _ = watched.run("env", "-0", env=watched.environment(NOTIFY_SOCKET="/outer", WATCHDOG_USEC="5"))
    seen = dict(line.split("=", 1) for line in out.decode().split("\0") if line)
    assert seen["UNSLOTH_WATCH_RUN_DIR"] == str(watched.directory)
    assert seen["UNSLOTH_WATCH_ATTEMPT"] == "1"
    assert seen["PYTHONUNBUFFERED"] == "1"
    assert seen["NOTIFY_SOCKET"] not in ("", "/outer")
    assert "WATCHDOG_USEC" not in seen
    changes = watched.events("attempt.started")[0]["env_changes"]
    assert changes["WATCHDOG_USEC"] is None
    assert {name for name in changes if changes[name] is not None} == {
        "UNSLOTH_WATCH_RUN", "UNSLOTH_WATCH_RUN_DIR", "UNSLOTH_WATCH_ATTEMPT", "PYTHONUNBUFFERED", "NOTIFY_SOCKET",
    }  # fmt: skip


def test_with_capture_inherit_the_command_has_our_own_descriptors(watched: Watched) -> None:
    with watched.start("readlink", "/proc/self/fd/1", options=("--capture", "inherit")) as process:
        assert process.stdout is not None
        ours = os.readlink(f"/proc/self/fd/{process.stdout.fileno()}")
        assert process.communicate()[0].decode().strip() == ours


def test_the_run_directory_is_private_and_its_place_is_the_first_line(watched: Watched) -> None:
    command = [
        *PROGRAM,
        "--interval",
        "0.1s",
        SH,
        "-c",
        "echo x; until [ -s $UNSLOTH_WATCH_RUN_DIR/samples.jsonl ]; do sleep 0.05; done",
    ]
    result = subprocess.run(command, env=watched.environment(), capture_output=True, cwd=watched.place, check=True)
    (directory,) = (watched.place / "state" / "unsloth-watch" / "runs").iterdir()
    assert result.stderr.decode().splitlines()[0].endswith(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in directory.iterdir()} == {"run.json", "events.jsonl", "output.log", "samples.jsonl"}


def test_a_state_directory_that_cannot_be_made_moves_the_records_and_says_so(watched: Watched) -> None:
    (watched.place / "state").write_text("in the way")
    temporary = watched.place / "tmp"
    temporary.mkdir()
    result = subprocess.run(
        [*PROGRAM, "true"], env=watched.environment(TMPDIR=str(temporary)), capture_output=True, cwd=watched.place, check=True
    )
    assert b"Not a directory" in result.stderr
    assert list(temporary.glob("unsloth-watch-*/runs/*/run.json"))


FORWARDED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", FORWARDED)
def test_a_signal_is_forwarded_once(watched: Watched, number: signal.Signals) -> None:
    job = watched.script(
        f"""
        import signal, sys, time
        seen = []
        signal.signal({int(number)}, lambda n, f: seen.append(n))
        print("ready", flush=True)
        while not seen: time.sleep(0.02)
        time.sleep(0.2)
        print(seen, flush=True)
        sys.exit(9)
        """
    )
    with watched.start(sys.executable, job) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    assert out.decode().strip() == f"[{int(number)}]"
    assert process.returncode == 9
    ending = number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    assert watched.summary()["outcome"] == ("interrupted" if ending else "failed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_is_continued_so_that_it_can_obey_the_end(watched: Watched, number: signal.Signals) -> None:
    job = watched.script("import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
    with watched.start(sys.executable, job, options=("--on-hang", "report", "--no-live-repair")) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == -number
    assert watched.summary()["outcome"] == "interrupted"


def test_a_second_interrupt_terminates_and_a_third_kills(watched: Watched) -> None:
    job = watched.script(
        """
        import signal, time
        signal.signal(signal.SIGINT, lambda n, f: print("int", flush=True))
        signal.signal(signal.SIGTERM, lambda n, f: print("term", flush=True))
        print("ready", flush=True)
        while True: time.sleep(1)
        """
    )
    with watched.start(sys.executable, job, options=("--grace", "100s")) as process:
        assert process.stdout is not None
        for sent, heard in [(None, b"ready\n"), (signal.SIGINT, b"int\n"), (signal.SIGINT, b"term\n")]:
            if sent is not None:
                process.send_signal(sent)
            line = process.stdout.readline()
            while line == b"int\n" and heard == b"term\n":  # the second Ctrl-C begins with SIGINT again
                line = process.stdout.readline()
            assert line == heard
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


ESCAPING = """
import os, subprocess, sys, time
def escape(kind):
    if os.fork(): return
    if kind != "plain": os.setsid()
    if kind == "double" and os.fork(): os._exit(0)
    if kind == "double": os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
    time.sleep(600); os._exit(0)
for kind in ("plain", "setsid", "double"): escape(kind)
os.setpgid(0, 0) if os.getpid() != os.getpgid(0) else None
print("ready", flush=True)
time.sleep(600)
"""


def below(pid: int) -> list[psutil.Process]:
    """Everybody below a process."""
    return psutil.Process(pid).children(recursive=True)


def test_nobody_survives_a_sigkill_of_the_supervisor_and_its_records_stay_readable(watched: Watched) -> None:
    job = watched.script(ESCAPING)
    with watched.start(sys.executable, job, options=("--interval", "0.2s")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        family = until(lambda: found if len(found := below(process.pid)) >= 5 else None)
        until(lambda: (watched.directory / "samples.jsonl").exists() and (watched.directory / "samples.jsonl").stat().st_size)
        process.kill()
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))
        process.communicate()
    assert [event["event"] for event in watched.events()][:2] == ["run.started", "attempt.started"]
    assert watched.summary()["outcome"] is None
    assert b"ready" in (watched.directory / "output.log").read_bytes()


def test_whoever_the_command_leaves_behind_ends_with_it(watched: Watched) -> None:
    job = watched.script("import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)")
    status, out, _ = watched.run(sys.executable, job, options=("--grace", "1s"))
    assert status == 0
    assert not psutil.pid_exists(int(out))
    assert watched.summary()["outcome"] == "completed"


def test_the_job_goes_on_and_its_status_is_learned_when_the_guardian_is_killed(watched: Watched) -> None:
    job = watched.script("import sys; print('ready', flush=True); sys.stdin.readline(); sys.exit(5)")
    with watched.start(sys.executable, job, stdin=subprocess.PIPE, options=("--interval", "0.1s")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (guardian,) = psutil.Process(process.pid).children()
        guardian.kill()
        until(lambda: any(event["sensor"] == "guardian" for event in watched.events("sensor.degraded")))
        process.communicate(b"go\n", timeout=30)
    assert process.returncode == 5


@pytest.mark.parametrize(
    ("words", "status", "phrase"),
    [
        ([], 64, "no command to run"),
        (["--"], 64, "no command to run"),
        (["--", ""], 64, "no command to run"),
        (["--stal-timeout", "3s", "true"], 64, "did you mean --stall-timeout"),
        (["--stall-timeout", "soon", "true"], 64, "is not a duration"),
        (["--config", "/nonexistent.toml", "true"], 78, "cannot be read"),
        (["--run-dir", "/proc/none", "true"], 78, "cannot make the run directory"),
        (["--stall-timeout", "3h", "true"], 78, "busy-timeout"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_started(watched: Watched, words: list[str], status: int, phrase: str) -> None:
    result = subprocess.run(
        [*PROGRAM, *words], env=watched.environment(), capture_output=True, text=True, cwd=watched.place, check=False
    )
    assert result.returncode == status
    assert phrase in result.stderr
    assert result.stderr.startswith("unsloth-watch: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(watched.place.iterdir()) == []


def test_a_directory_of_another_run_is_refused_and_left_alone(watched: Watched) -> None:
    watched.run("true")
    before = (watched.directory / "run.json").read_bytes()
    status, _, err = watched.run("true")
    assert status == 78
    assert b"another run" in err
    assert (watched.directory / "run.json").read_bytes() == before


def test_nothing_heavy_is_imported_before_the_command_is_executed(watched: Watched) -> None:
    # The command itself says what its grandparent, the supervisor, had imported when it began: nothing of these may be needed.
    program = """
import sys
from unsloth_watch.config.load import load_settings, split_command_line
from unsloth_watch.supervise.launch import Launch
options, command = split_command_line(["--run-dir", sys.argv[1], "--", "true"])
launch = Launch(load_settings(options, {}, "/"), command, {"PATH": "/bin:/usr/bin"})
launch.start(1, {})
heavy = {"msgspec", "psutil", "structlog", "pynvml", "subprocess", "json", "dataclasses", "typing", "argparse", "asyncio", "tomllib"}
print(sorted(heavy & set(sys.modules)))
launch.guardian.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(watched.directory)], capture_output=True, text=True, check=True, cwd=watched.place
    )
    assert result.stdout == "[]\n"


def test_help_and_version_answer(tmp_path: Path) -> None:
    for word, phrase in [("--help", "--stall-timeout DURATION"), ("--version", "unsloth-watch 0"), ("-h", "example:")]:
        result = subprocess.run([*PROGRAM, word], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert phrase in result.stdout


def test_where_the_caches_are_is_in_the_run_and_in_the_commands_environment(watched: Watched) -> None:
    (watched.place / "keep").mkdir()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (watched.place / "venv" / "lib" / version / "site-packages" / "triton-3.7.0.dist-info").mkdir(parents=True)
    (watched.place / "venv" / "bin").mkdir()
    python = watched.place / "venv" / "bin" / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    status, out, _ = watched.run(
        str(python), "-c", "import os; print(os.environ['TRITON_CACHE_DIR'])", options=("--cache", "keep/x")
    )
    place = str(watched.place / "keep" / "x" / "triton")
    assert (status, out.decode().strip()) == (0, place)
    (choice,) = watched.summary()["caches"]
    assert choice == {"cache": "triton", "variable": "TRITON_CACHE_DIR", "path": place, "why": "--cache names the place"}
    (started,) = watched.events("attempt.started")
    assert started["env_changes"]["TRITON_CACHE_DIR"] == place
    assert started["env_reasons"] == {"TRITON_CACHE_DIR": "--cache names the place"}
    assert watched.summary()["settings"]["cache"] == {"value": "keep/x", "source": "--cache"}


def test_caches_are_pruned_before_the_launch_where_that_is_asked_for(watched: Watched) -> None:
    entry = watched.place / "home" / ".triton" / "cache" / ("A" * 52)
    entry.mkdir(parents=True)
    (entry / "kernel.cubin").touch()
    environment = watched.environment(HOME=str(watched.place / "home"))
    status, out, err = watched.run("ls", str(entry.parent), options=("--cache-prune", "0.001s"), env=environment)
    assert (status, out) == (0, b"")
    assert b"caches pruned before the launch" in err
