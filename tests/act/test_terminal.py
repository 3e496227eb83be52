"""A command on a terminal does not notice the supervisor: size, keys, Ctrl-C and Ctrl-Z are as without one."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from act.jobs import state_of
from waiting import until

# A shell with job control, reduced to one job: tells of its stop and its end, continues it when told.
SHELL = r"""
import fcntl, os, signal, socket, sys, termios
control = socket.socket(fileno=int(sys.argv[1]))
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    control.send(b"stopped")
    word = control.recv(100)
    if word == b"fg":
        os.tcsetpgrp(0, pid)
    os.killpg(pid, signal.SIGCONT)
control.send(b"exit %d" % os.waitstatus_to_exitcode(status))
control.recv(100)
"""

SUPERVISOR = r"""
import os, select, signal, sys
from unsloth_watch.act.exits import decode_status
from unsloth_watch.act.launch import Guardian
from unsloth_watch.act.relay import Relay
from unsloth_watch.act.terminal import open_terminal
guardian = Guardian.fork()
terminal = open_terminal(1, 0)
slave = terminal.slave_fd
started = guardian.start([sys.executable, "-I", "-S", "-c", sys.argv[1]], dict(os.environ), "/", slave, slave, slave, is_terminal=True)
wake, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
signal.signal(signal.SIGWINCH, lambda *_: terminal.resize())
signal.signal(signal.SIGCONT, lambda *_: terminal.resume())
terminal.on_key = lambda: os.write(waker, b"!")
relay = Relay.start([(os.dup(terminal.master_fd), 1)])
terminal.start()
relay.set_raw(True)
terminal.close_slave()
suspends = 0
while not (ends := guardian.exits()):
    ready, _, _ = select.select([guardian, wake], [], [])
    if wake in ready:
        os.read(wake, 100)
    if terminal.suspends != suspends:
        suspends = terminal.suspends
        if terminal.suspend(started.pid):
            relay.say(b"back again")
relay.finish(5)
terminal.close()
guardian.close()
print("interrupts", terminal.interrupts)
sys.exit(decode_status(ends[0].status)[0])
"""


class Window:
    """The terminal that a person sits at."""

    def __init__(self, supervisor: str, *argv: str) -> None:
        self.fd, slave = os.openpty()
        self.resize(50, 132)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(20)
        self.shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(theirs.fileno()), supervisor, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHON_COLORS": "0"},  # 3.13 paints tracebacks on a terminal
        )
        os.close(slave)
        theirs.close()
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def expect(self, text: bytes, seconds: float = 20) -> None:
        """Wait until the text appears, and forget everything up to its end."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], f"{text!r} is not in {self.seen!r}"
            self.seen += os.read(self.fd, 65536)
        self.seen = self.seen.partition(text)[2]

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ISIG | termios.ECHO)

    def news(self) -> str:
        return self.control.recv(100).decode()

    def close(self) -> None:
        self.control.close()
        os.close(self.fd)
        self.shell.kill()
        self.shell.wait()


@pytest.fixture
def window() -> Iterator:
    windows = []

    def open_window(code: str, supervisor: str = SUPERVISOR) -> Window:
        windows.append(Window(supervisor, code))
        return windows[-1]

    yield open_window
    for one in windows:
        one.close()


def test_the_command_sees_a_terminal_of_the_right_size_that_is_its_own(window):
    screen = window(
        "import os\nprint(all(map(os.isatty, (0, 1, 2))), os.get_terminal_size(), os.tcgetpgrp(0) == os.getpid(), os.getsid(0) == os.getpid(),"
        " os.ttyname(0) == os.ttyname(os.open('/dev/tty', os.O_RDWR)) or 'has /dev/tty')"
    )
    screen.expect(b"True os.terminal_size(columns=132, lines=50) True True has /dev/tty\r\n")
    assert screen.news() == "exit 0"


def test_the_exit_status_comes_through_and_the_terminal_is_as_before(window):
    screen = window("import os; input('ready?'); os._exit(42)")
    before = termios.tcgetattr(screen.fd)
    screen.expect(b"ready?")
    assert screen.is_raw()
    screen.press(b"yes\r")
    assert screen.news() == "exit 42"
    assert termios.tcgetattr(screen.fd) == before


def test_keys_are_echoed_once_and_arrive_as_a_line(window):
    screen = window("import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); print('got', repr(input()))")
    screen.expect(b"ready\r\n")
    screen.press("größe\r".encode())
    screen.expect("größe\r\ngot 'größe'\r\n".encode())
    assert screen.news() == "exit 0"


def test_the_end_of_file_key_arrives(window):
    screen = window("import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); print(len(sys.stdin.read()))")
    screen.expect(b"ready")
    screen.press(b"abc\r\x04")
    screen.expect(b"4\r\n")
    assert screen.news() == "exit 0"


def test_a_new_size_is_passed_on(window):
    screen = window(
        "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\nos.write(1, b'ready\\n')\n"
        "signal.sigwait({signal.SIGWINCH})  # blocked before: one that comes too early is kept for it\nprint(os.get_terminal_size())"
    )
    screen.expect(b"ready")
    screen.resize(24, 80)
    screen.expect(b"os.terminal_size(columns=80, lines=24)")
    assert screen.news() == "exit 0"


def test_the_interrupt_key_reaches_the_command_once_and_the_supervisor_knows(window):
    screen = window(
        "import os\ntry:\n    os.write(1, b'ready\\n')\n    os.read(os.pipe()[0], 1)\nexcept KeyboardInterrupt:\n    print('interrupted')\n    raise SystemExit(7)"
    )
    screen.expect(b"ready")
    screen.press(b"\x03")
    screen.expect(b"^Cinterrupted\r\n")
    screen.expect(b"interrupts 1\r\n")
    assert screen.news() == "exit 7"


def test_the_interrupt_key_is_just_a_key_to_a_command_that_wants_it_so(window):
    screen = window(
        "import os, termios\nmode = termios.tcgetattr(0)\nmode[3] &= ~(termios.ISIG | termios.ICANON | termios.ECHO)\n"
        "termios.tcsetattr(0, termios.TCSANOW, mode)\nos.write(1, b'ready\\n')\nprint(os.read(0, 10))"
    )
    screen.expect(b"ready")
    screen.press(b"\x03")
    screen.expect(b"b'\\x03'\r\n")
    screen.expect(b"interrupts 0\r\n")
    assert screen.news() == "exit 0"


STAYS = "import os\nos.write(1, b'ready %d\\n' % os.getpid())\nprint('got', input())"


def test_the_suspend_key_stops_the_job_and_gives_the_terminal_back_until_it_is_continued(window):
    screen = window(STAYS)
    before = termios.tcgetattr(screen.fd)
    screen.expect(b"ready ")
    screen.expect(b"\r\n")
    until(screen.is_raw)
    screen.press(b"\x1a")
    assert screen.news() == "stopped"
    assert termios.tcgetattr(screen.fd) == before
    screen.control.send(b"fg")
    until(screen.is_raw)
    screen.press(b"on\r")
    screen.expect(b"got on\r\n")
    assert screen.news() == "exit 0"
    assert termios.tcgetattr(screen.fd) == before


def test_while_suspended_the_command_is_stopped_and_in_the_background_it_goes_on_without_keys(window):
    screen = window("import os, time\nos.write(1, b'ready %d.' % os.getpid())\nwhile True: time.sleep(0.01); os.write(1, b'.')")
    screen.expect(b"ready ")
    until(screen.is_raw)
    pid = int(read_until(screen, b"."))
    screen.press(b"\x1a")
    assert screen.news() == "stopped"
    until(lambda: state_of(pid) == "T")
    screen.control.send(b"bg")
    until(lambda: state_of(pid) in ("S", "R"))
    assert not screen.is_raw()
    os.kill(pid, signal.SIGTERM)
    assert screen.news() == f"exit {128 + signal.SIGTERM}"


def read_until(screen: Window, text: bytes) -> bytes:
    until(lambda: text in screen.seen or setattr(screen, "seen", screen.seen + os.read(screen.fd, 1)))
    found, _, screen.seen = screen.seen.partition(text)
    return found


def test_where_no_shell_could_continue_us_the_suspend_key_does_not_freeze_the_job(window):
    # The supervisor as session leader, as in a container: its group is orphaned.
    joins = "import os, signal\nsignal.signal(signal.SIGTTOU, signal.SIG_IGN)\nos.setpgid(0, os.getppid())\nos.tcsetpgrp(0, os.getpgrp())\n"
    screen = window(STAYS, joins + SUPERVISOR)
    screen.expect(b"ready ")
    screen.expect(b"\r\n")
    until(screen.is_raw)
    screen.press(b"\x1a")
    screen.expect(b"back again")
    screen.press(b"on\r")
    screen.expect(b"got on\r\n")
    assert screen.news() == "exit 0"


def test_an_exception_in_the_supervisor_leaves_the_terminal_as_before(window):
    broken = SUPERVISOR.replace("suspends = 0", "input_seen = relay\nraise RuntimeError('broken')")
    screen = window(STAYS, broken)
    before = termios.tcgetattr(screen.fd)
    assert screen.news() == "exit 1"
    assert termios.tcgetattr(screen.fd) == before
    screen.expect(b"RuntimeError: broken")


def test_our_own_lines_start_at_the_left_edge_though_the_terminal_is_raw(window):
    speaking = SUPERVISOR.replace("suspends = 0", "relay.say(b'unsloth-watch: hello')\nsuspends = 0")
    screen = window("print('got', input('name? '))", speaking)
    screen.expect(b"unsloth-watch: hello\r\n")
    until(screen.is_raw)
    screen.press(b"x\r")
    screen.expect(b"got x\r\n")
    assert screen.news() == "exit 0"
