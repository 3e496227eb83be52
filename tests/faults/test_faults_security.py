"""Nothing of the job is interpreted, and nobody else gets at the records."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from faults.faulted import FAST, Faulted
from unsloth_watch.act.logoutlet import LogOutlet
from unsloth_watch.supervise.control import NAME
from waiting import until
from watched import PROGRAM, Watched

SECONDS = ("--interval", "0.1s", "--stall-timeout", "2s", "--cache", "keep")
# A title, a clipboard, a colour, a cleared screen, a bell, a backspace over the line, a right-to-left override, and HTML.
NASTY = "\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x1b[31m\x1b[2J\x08\x08\u202e<script>alert(1)</script>"


def everybody(place: Path) -> dict[str, int]:
    """Return the permission bits of everything below a place, sockets and directories included."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder) / name
            found[str(path.relative_to(place))] = stat.S_IMODE(path.lstat().st_mode)
    return found


def test_with_no_umask_at_all_every_record_is_our_own(watched: Watched) -> None:
    state = watched.place / "state"
    command = [
        *PROGRAM,
        *FAST,
        "--on-hang",
        "stop",
        "--",
        sys.executable,
        "-c",
        "import time; print('ready', flush=True); time.sleep(600)",
    ]
    process = subprocess.Popen(
        command, cwd=watched.place, env=watched.environment(), umask=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (directory,) = until(lambda: list((state / "unsloth-watch" / "runs").glob("*")))
        until(lambda: (directory / NAME).exists() or process.poll() is not None)
        alive = everybody(state)
        assert process.wait(60) == 124
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert f"unsloth-watch/runs/{directory.name}/{NAME}" in alive
    for path, mode in {**alive, **everybody(state)}.items():
        if path.rpartition("/")[2] != "notify":  # a datagram socket that only the directory guards: the job writes to it
            assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    assert (directory / "incidents" / "01" / "report.html").exists()


@pytest.mark.quick
def test_a_link_in_the_place_of_the_log_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "output.log").symlink_to(tmp_path / "precious")
    outlet = LogOutlet(str(tmp_path / "output.log"))
    outlet.put(b"theirs")
    until(lambda: outlet.faults)
    outlet.close()
    assert "Too many levels of symbolic links" in outlet.faults[0]
    assert (tmp_path / "precious").read_text() == "mine"
    until(lambda: outlet.is_ended)


def test_a_temporary_place_that_somebody_else_made_first_is_refused(watched: Watched) -> None:
    shared = watched.place / "tmp"
    shared.mkdir()
    trap = watched.place / "trap"
    trap.mkdir()
    place = shared / f"unsloth-watch-{os.getuid()}"
    environment = watched.environment(XDG_STATE_HOME="/proc/nowhere", TMPDIR=str(shared))
    command = [*PROGRAM, "--", "touch", "started"]
    for make in (lambda: place.symlink_to(trap), lambda: place.mkdir(mode=0o777) or place.chmod(0o777)):
        make()
        result = subprocess.run(command, cwd=watched.place, env=environment, capture_output=True, timeout=60, check=False)
        assert result.returncode == 78, result.stderr
        assert b"is not a directory of our own" in result.stderr
        place.unlink() if place.is_symlink() else place.rmdir()
    assert not list(trap.iterdir())
    assert not (watched.place / "started").exists()


def test_names_and_words_of_the_job_reach_nobodys_terminal_or_browser(tmp_path: Path) -> None:
    # The command's own stderr is passed on as it came, so it must not print a traceback of its own.
    folder = "d\x1b]0;owned\x07\x1b[2J<script>alert(1)<"
    job = f"""
    import ctypes, os, signal, threading
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print({NASTY!r})
    print("ready", flush=True)
    ctypes.CDLL(None).prctl(15, b"\\x1b[2J<b>\\x07")
    os.makedirs({folder!r})
    open({folder!r} + "/f.py", "w").write("def wait(lock):\\n lock.acquire()\\n")
    space = {{}}
    exec(compile(open({folder!r} + "/f.py").read(), {folder!r} + "/f.py", "exec"), space)
    threading.current_thread().name = {NASTY!r}
    lock = threading.Lock()
    lock.acquire()
    space["wait"](lock)
    """
    run = Faulted(tmp_path, job, options=(*SECONDS, "--grace", "0.1s", "--on-hang", "stop", "-v"))
    try:
        run.await_line(b"ready\n")
        with subprocess.Popen([*PROGRAM, "inspect", "--seconds", "1", str(_job_of(run))], stdout=subprocess.PIPE) as looker:
            looked, _ = looker.communicate(timeout=60)
        assert run.end() == 124
    finally:
        run.close()
    incident = run.directory / "incidents" / "01"
    assert b"owned" in (incident / "report.json").read_bytes(), "the names were in the evidence"
    stacks = b"".join(path.read_bytes() for path in (incident / "stacks").iterdir())
    assert b"wait (d ]0;owned" in stacks
    for name, text in {
        "stacks": stacks, "stderr": (tmp_path / "stderr").read_bytes(), "inspect": looked, "report.md": (incident / "report.md").read_bytes(),
        "report.html": (incident / "report.html").read_bytes(), "events": (run.directory / "events.jsonl").read_bytes(),
    }.items():  # fmt: skip
        found = re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", text)
        assert found is None, (name, text[max(0, found.start() - 80) : found.end() + 80])
    assert b"<script>alert" not in (incident / "report.html").read_bytes()


def _job_of(run: Faulted) -> int:
    event = until(lambda: run.events("attempt.started"))[0]
    pid = event["pid"]
    assert isinstance(pid, int)
    return pid


def test_arguments_and_environment_of_the_job_never_meet_a_shell(watched: Watched) -> None:
    word = "$(touch owned); `touch owned` | touch owned\n& \x1b]0;x\x07"
    status, out, err = watched.run(
        sys.executable,
        "-c",
        "import os, sys; print(repr(sys.argv[1]), repr(os.environ['WORD']))",
        word,
        env=watched.environment(WORD=word),
    )
    assert status == 0, err
    assert out.decode() == f"{word!r} {word!r}\n"
    assert b"\x1b" not in err
    assert not list(watched.place.rglob("owned"))
    watched.directory = watched.place / "another"
    status, _, err = watched.run("./" + word)
    assert status == 127, err
    assert b"\x1b" not in err, err


def test_another_user_can_neither_attach_nor_inspect_nor_order(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root; run the tests as root")
    os.mkfifo(tmp_path / "go")
    run = Faulted(tmp_path, "import os\nprint('ready', flush=True)\nos.read(os.open('go', 0), 1)\nraise SystemExit(7)")
    code = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for attempt in (lambda: os.listdir(sys.argv[1]), lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1] + "/control")):
    try:
        attempt()
    except PermissionError:
        print("refused")
"""
    try:
        run.await_line(b"ready\n")
        until((run.directory / NAME).exists)
        for place in list(tmp_path.parents)[:3]:
            place.chmod(place.stat().st_mode | 0o011)
        tmp_path.chmod(0o755)
        tried = subprocess.run(
            [sys.executable, "-c", code, str(run.directory)], capture_output=True, text=True, check=True, timeout=30
        )
        assert tried.stdout.split() == ["refused", "refused"]
        (tmp_path / "go").write_bytes(b"!")
        assert run.end() == 7
    finally:
        run.close()
