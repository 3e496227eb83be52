"""The whole program on a real terminal: the command and its user do not notice it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from screens import Screen
from waiting import until
from watched import PROGRAM, Watched

Start = Callable[..., Screen]


@pytest.fixture
def start(watched: Watched) -> Iterator[Start]:
    """Start words on a terminal, under supervision unless they are a shell of the user's."""
    screens: list[Screen] = []

    def begin(*words: str, options: tuple[str, ...] = (), is_supervised: bool = True) -> Screen:
        command = [*PROGRAM, "--run-dir", str(watched.directory), *options, "--", *words] if is_supervised else list(words)
        screens.append(Screen(command, watched.environment(TERM="dumb", PS1="prompt> "), str(watched.place)))
        return screens[-1]

    yield begin
    for screen in screens:
        screen.close()


def test_the_command_sees_a_terminal_of_the_same_size_and_hears_of_a_new_one(start: Start, watched: Watched) -> None:
    job = watched.script(
        """
        import os, signal, sys
        def show(*_):
            print("size", *os.get_terminal_size(), [os.isatty(fd) for fd in (0, 1, 2)], flush=True)
        signal.signal(signal.SIGWINCH, show)
        show()
        while True: signal.pause()
        """
    )
    screen = start(sys.executable, job)
    screen.expect(r"size 111 33 \[True, True, True\]")
    screen.resize(50, 200)
    screen.expect(r"size 200 50 ")


def test_a_prompt_is_shown_echoes_and_is_answered(start: Start, watched: Watched) -> None:
    job = watched.script("name = input('your name? ')\nprint(f'hello {name[::-1]}')\nraise SystemExit(3)")
    screen = start(sys.executable, job)
    before = screen.mode()
    screen.expect(r"your name\? ")
    screen.type("abcd\n")
    screen.expect(r"abcd\r\n")  # the echo comes from the command's own terminal
    screen.expect(r"hello dcba\r\n")
    screen.expect(r"exit status 3\r\n")
    assert screen.wait() == 3
    assert screen.mode() == before


LISTENER = """
import os, signal, sys
# Not print: a second signal within it would find the stream busy.
signal.signal(signal.SIGINT, lambda n, f: os.write(1, b"heard int\\n"))
signal.signal(signal.SIGTERM, lambda n, f: (os.write(1, b"heard term\\n"), os._exit(5)))
print("ready", flush=True)
while True: signal.pause()
"""


def test_one_ctrl_c_is_the_commands_own_and_is_heard_once(start: Start, watched: Watched) -> None:
    screen = start(sys.executable, watched.script(LISTENER))
    screen.expect("ready")
    screen.type("\x03")
    screen.expect("heard int")
    screen.type("x")
    screen.expect(r"x")  # it lives, and its terminal still echoes
    assert screen.seen.count("heard int") == 1
    assert not watched.events("attempt.terminating")


def test_three_ctrl_c_within_seconds_terminate_what_only_listens(start: Start, watched: Watched) -> None:
    screen = start(sys.executable, watched.script(LISTENER), options=("--grace", "60s"))
    screen.expect("ready")
    for _ in range(3):
        screen.type("\x03")
        screen.expect("heard int")
    screen.expect("heard term")
    assert screen.wait() == 5
    assert watched.summary()["outcome"] == "interrupted"


def test_ctrl_c_ends_an_ordinary_script_as_a_signal_would_and_nothing_is_started_again(start: Start, watched: Watched) -> None:
    screen = start(
        sys.executable, "-c", "print('ready', flush=True); __import__('time').sleep(600)", options=("--restart-on", "hang,crash")
    )
    screen.expect("ready")
    screen.type("\x03")
    screen.expect("KeyboardInterrupt")
    assert screen.wait() == -2
    assert watched.summary()["outcome"] == "interrupted"
    assert len(watched.summary()["attempts"]) == 1


def test_ctrl_z_stops_the_whole_job_in_a_real_shell_and_fg_goes_on(start: Start, watched: Watched) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash; install it (apt-get install bash)")
    job = watched.script(
        "import os, signal\nprint('PID', os.getpid(), flush=True)\nfor _ in range(2): print('got', input(), flush=True)\n"
    )
    screen = start("bash", "--norc", "--noprofile", "-i", is_supervised=False)
    screen.expect("prompt> ")
    screen.type(" ".join([*PROGRAM, "--run-dir", str(watched.directory), "--", sys.executable, job]) + "\n")
    pid = int(screen.expect(r"PID (\d+)")[1])
    screen.type("one\n")
    screen.expect("got one")
    screen.type("\x1a")
    screen.expect(r"Stopped")
    screen.expect("prompt> ")
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    screen.type("echo a$((1+1))b\n")  # the terminal is the shell's again, in its own mode
    screen.expect("a2b")
    screen.type("fg\n")
    screen.expect(r"unsloth_watch")
    until(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED)
    screen.type("two\n")
    screen.expect("got two")
    screen.expect("prompt> ")
    screen.type("echo status $?\n")
    screen.expect(r"status 0")
    screen.type("exit\n")
    assert screen.wait() == 0


def test_a_terminal_that_hangs_up_ends_the_command_by_hangup_and_leaves_the_records(start: Start, watched: Watched) -> None:
    screen = start(sys.executable, "-c", "import os, time; print('PID', os.getpid(), flush=True); time.sleep(600)")
    pid = int(screen.expect(r"PID (\d+)")[1])
    screen.close()
    until(lambda: not psutil.pid_exists(pid))
    assert until(lambda: watched.summary()["outcome"]) == "interrupted"
    assert watched.events("attempt.finished")[0]["signal"] == "SIGHUP"
    assert re.search(rb"PID \d+", (watched.directory / "output.log").read_bytes())
