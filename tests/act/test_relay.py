"""Every byte of the command arrives where it should, and no reader of ours ever makes the command wait."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from act.jobs import PYTHON, read_to_end
from unsloth_watch.act.outlet import MEMORY_LIMIT, Outlet, gap_marker
from unsloth_watch.act.relay import FRESH_LIMIT, TAIL_LIMIT, Relay
from waiting import until

# Bytes that no two places share: order, loss and repetition all show.
NUMBERS = "import os,sys\nfor i in range(int(sys.argv[1])): os.write(int(sys.argv[2]), b''.join(b'%015d\\n' % n for n in range(i * 4096, i * 4096 + 4096)))"


def numbers(blocks: int) -> bytes:
    return b"".join(b"%015d\n" % n for n in range(blocks * 4096))


class Pipes:
    """The command's two streams, and pipes that stand for our own stdout and stderr."""

    def __init__(self) -> None:
        self.out, self.out_writer = os.pipe()
        self.err, self.err_writer = os.pipe()
        self.seen_out, self.our_out = os.pipe()
        self.seen_err, self.our_err = os.pipe()
        self.commands: list[subprocess.Popen] = []
        self.relays: list[Relay] = []

    @property
    def streams(self) -> list[tuple[int, int]]:
        return [(self.out, self.our_out), (self.err, self.our_err)]

    def relay(self, log_path=None, **options) -> Relay:
        options.setdefault("say_fd", self.our_err)
        relay = Relay.start(self.streams, str(log_path) if log_path else None, **options)
        self.relays.append(relay)
        return relay

    def command(self, *argv: str, **options) -> subprocess.Popen:
        process = subprocess.Popen(argv, stdout=self.out_writer, stderr=self.err_writer, **options)
        self.commands.append(process)
        return process

    def python(self, code: str, *argv: object, **options) -> subprocess.Popen:
        return self.command(*PYTHON, code, *map(str, argv), **options)

    def shut(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) != -1:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def end(self) -> None:
        """Close what is open, our own ends last: a writer that still has output in hand would give it to a later test's pipe."""
        for process in self.commands:
            process.kill()
            process.wait()
        self.shut("out_writer", "err_writer", "seen_out", "seen_err")
        for relay in self.relays:
            if not relay._is_finishing:
                relay.finish(0)
            until(lambda relay=relay: all(outlet.is_ended for outlet in relay._outlets.values()))
        self.shut("our_out", "our_err")


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.end()


def collect(fd: int, size: int) -> bytes:
    """Read exactly ``size`` bytes."""
    found = bytearray()
    while len(found) < size:
        assert select.select([fd], [], [], 20)[0], f"{len(found)} of {size} bytes came"
        found += os.read(fd, size - len(found))
    return bytes(found)


def content(path) -> bytes | None:
    """Read a file; None in the moment in which it is being rotated."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def peek(fd: int) -> bytes:
    """Read what is there now."""
    found = b""
    while select.select([fd], [], [], 0)[0] and (part := os.read(fd, 65536)):
        found += part
    return found


def test_binary_output_arrives_byte_for_byte_on_its_own_stream(pipes, tmp_path):
    out, err = os.urandom(40_000), os.urandom(30_000)  # less than a pipe each: one thread can read them in turn
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    relay = pipes.relay(tmp_path / "output.log")
    pipes.command("sh", "-c", f"cat {tmp_path}/err >&2; cat {tmp_path}/out").wait()
    assert relay.finish(20)
    assert (peek(pipes.seen_out), peek(pipes.seen_err)) == (out, err)
    assert (tmp_path / "output.log").read_bytes() in (err + out, out + err)
    snapshot = relay.snapshot()
    assert (snapshot.total_bytes, snapshot.lost_bytes, snapshot.faults) == (70_000, 0, ())


def test_two_hundred_megabytes_without_a_newline_arrive(pipes, tmp_path):
    size = 200_000_000
    relay = pipes.relay(tmp_path / "output.log")
    counter = subprocess.Popen(["wc", "-c"], stdin=pipes.seen_out, stdout=subprocess.PIPE)
    pipes.shut("seen_out")
    pipes.command("head", "-c", str(size), "/dev/zero").wait()
    assert relay.finish(20)
    pipes.shut("our_out")
    assert int(counter.communicate(timeout=20)[0]) == size
    logged = sum((tmp_path / name).stat().st_size for name in ("output.log", "output.log.1"))
    assert size % (64 << 20) <= logged <= size


def test_a_reader_that_does_not_read_never_holds_the_command_up_and_loses_nothing(pipes, tmp_path):
    blocks = 400  # 26 MB, six times what memory may hold
    relay = pipes.relay(tmp_path / "output.log")
    command = pipes.python(NUMBERS, blocks, 1)
    assert command.wait(60) == 0  # ended, and nobody has read a byte yet
    until(lambda: relay.snapshot().total_bytes == blocks * 65536)
    assert collect(pipes.seen_out, blocks * 65536) == numbers(blocks)
    assert relay.finish(20)
    assert peek(pipes.seen_out) == b""
    assert (tmp_path / "output.log").read_bytes() == numbers(blocks)
    assert relay.snapshot().lost_bytes == 0


def test_a_slow_reader_gets_the_rest_after_the_end_as_long_as_it_reads_on(pipes, tmp_path):
    blocks = 200
    relay = pipes.relay(tmp_path / "output.log")
    assert pipes.python(NUMBERS, blocks, 1).wait(60) == 0
    with (tmp_path / "seen").open("wb") as seen:
        slow = "import os,sys,time\nwhile b := os.read(0, 200000): time.sleep(0.001); os.write(1, b)"
        reader = subprocess.Popen([*PYTHON, slow], stdin=pipes.seen_out, stdout=seen)
    assert relay.finish(20)
    pipes.shut("our_out")
    assert reader.wait(20) == 0
    assert (tmp_path / "seen").read_bytes() == numbers(blocks)


def test_the_spill_file_has_no_name_and_is_emptied_when_it_has_been_read(pipes, tmp_path):
    relay = pipes.relay(spill_folder=str(tmp_path))
    assert pipes.python(NUMBERS, 200, 1).wait(60) == 0

    def spilled() -> list[int]:
        links = (
            (fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
        )
        return [os.fstat(int(fd)).st_size for fd, link in links if link.startswith(str(tmp_path))]

    until(lambda: sum(spilled()) > MEMORY_LIMIT)
    assert os.listdir(tmp_path) == []
    collect(pipes.seen_out, 200 * 65536)
    until(lambda: spilled() == [0])
    assert relay.finish(20)


def test_output_after_a_spill_has_been_drained_is_in_order_too(pipes, tmp_path):
    relay = pipes.relay(spill_folder=str(tmp_path))
    for _ in range(3):
        assert pipes.python(NUMBERS, 120, 1).wait(60) == 0
        assert collect(pipes.seen_out, 120 * 65536) == numbers(120)
    assert relay.finish(20)


def test_a_reader_that_has_gone_does_not_disturb_the_rest(pipes, tmp_path):
    relay = pipes.relay(tmp_path / "output.log")
    pipes.shut("seen_out")
    assert pipes.python(NUMBERS, 200, 1).wait(60) == 0
    assert pipes.command("sh", "-c", "echo still here >&2").wait() == 0
    assert not relay.finish(20)
    assert peek(pipes.seen_err) == b"still here\n"
    assert (tmp_path / "output.log").stat().st_size == 200 * 65536 + 11
    assert [fault for fault in relay.snapshot().faults if "Broken pipe" in fault]


def test_a_full_disk_under_the_log_is_said_once_and_costs_nothing_else(pipes):
    relay = pipes.relay("/dev/full")
    assert pipes.python(NUMBERS, 1, 1).wait() == 0
    assert collect(pipes.seen_out, 65536) == numbers(1)
    until(lambda: relay.snapshot().faults)
    assert pipes.python(NUMBERS, 1, 1).wait() == 0
    assert collect(pipes.seen_out, 65536) == numbers(1)
    assert not relay.finish(0.2)
    assert [fault for fault in relay.snapshot().faults if "No space left" in fault] == [
        "full: No space left on device; trying again"
    ]


def test_a_log_whose_folder_is_missing_does_not_stop_the_output(pipes, tmp_path):
    relay = pipes.relay(tmp_path / "gone" / "output.log", spill_folder=str(tmp_path))
    pipes.command("echo", "one").wait()
    assert collect(pipes.seen_out, 4) == b"one\n"
    until(lambda: relay.snapshot().faults)
    (tmp_path / "gone").mkdir()
    assert relay.finish(20)
    assert (tmp_path / "gone" / "output.log").read_bytes() == b"one\n"


def test_a_disk_that_stands_still_costs_the_log_a_gap_and_the_command_a_moment(pipes, tmp_path):
    log = tmp_path / "output.log"
    os.mkfifo(log)  # opening it hangs until somebody reads, as on a file system whose server is gone
    relay = pipes.relay(log, spill_folder=str(tmp_path))
    command = pipes.python(NUMBERS, 200, 1)
    until(lambda: relay.snapshot().is_blocked)  # it says so while it is holding back
    assert collect(pipes.seen_out, 200 * 65536) == numbers(200)
    assert command.wait(20) == 0
    assert not relay.finish(0.1)
    assert relay.snapshot().lost_bytes >= 200 * 65536 - MEMORY_LIMIT - (1 << 20)
    os.close(os.open(log, os.O_RDONLY | os.O_NONBLOCK))


# In a mount namespace with a 6 MB file system: fills it, lets the relay meet that, makes space again.
FULL_DISK = r"""
import os, subprocess, sys, time
from unsloth_watch.act.relay import Relay
what, place = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=True)
blocks = 300
code = "import os,sys\nfor i in range(%d): os.write(1, b''.join(b'%%015d\\n' %% n for n in range(i * 4096, i * 4096 + 4096)))" % blocks
reader, writer = os.pipe()
seen, ours = os.pipe()
if what == "log":
    sink = subprocess.Popen(["cat"], stdin=seen, stdout=subprocess.DEVNULL)
    relay = Relay.start([(reader, ours)], place + "/output.log", spill_folder="/tmp")
else:
    relay = Relay.start([(reader, ours)], None, spill_folder=place)
subprocess.run([sys.executable, "-c", code], stdout=writer, check=True)
deadline = time.monotonic() + 30
def is_full(state):  # and the last of it taken from the pipe, whose writer has ended before its reader was there
    is_met = state.lost_bytes and any("No space left" in fault for fault in state.faults)
    return is_met and state.total_bytes == blocks * 65536
while not is_full(relay.snapshot()) and time.monotonic() < deadline:
    time.sleep(0.01)
assert relay.snapshot().total_bytes == blocks * 65536
if what == "log":
    with open(place + "/output.log", "rb+") as file:
        kept = file.read()
        file.truncate(0)
    subprocess.run(["echo", "afterwards"], stdout=writer, check=True)
    relay.finish(20)
    result = kept + open(place + "/output.log", "rb").read()
    os.close(ours)
else:
    # The reader wakes up only now.
    sink = subprocess.Popen(["cat"], stdin=seen, stdout=subprocess.PIPE)
    import _thread
    chunks = []
    _thread.start_new_thread(lambda: chunks.append(sink.stdout.read()), ())
    relay.finish(20)
    os.close(ours)
    while not chunks:
        time.sleep(0.01)
    result = chunks[0]
os.close(seen)
sink.wait()
print(relay.snapshot().lost_bytes, *relay.snapshot().faults, sep="\n", file=sys.stderr)
sys.stdout.buffer.write(result)
"""


@pytest.mark.parametrize("what", ["log", "spill"])
def test_a_really_full_disk_leaves_a_marked_gap_of_the_right_size_and_is_used_again_when_it_has_space(tmp_path, what):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a small file system needs root and unshare (util-linux)")
    process = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL_DISK, what, str(tmp_path)], capture_output=True, timeout=100, check=False
    )
    lost, *faults = process.stderr.decode().splitlines()
    assert process.returncode == 0, faults
    assert any("No space left" in fault for fault in faults)
    lost_bytes = int(lost)
    assert lost_bytes > 0
    # Put the gaps' sizes back in their places: what is left must be the numbers, in order, without repetition.
    wanted = numbers(300) + (b"afterwards\n" if what == "log" else b"")
    rest, position, gaps = process.stdout, 0, 0
    start, end = (part for part in gap_marker(1).split(b"1"))
    while rest:
        piece, _, rest = rest.partition(start)
        assert wanted[position : position + len(piece)] == piece
        position += len(piece)
        if rest:
            size, _, rest = rest.partition(end)
            position += int(size)
            gaps += int(size)
    assert (position, gaps) == (len(wanted), lost_bytes)


def test_a_daemon_that_keeps_the_pipe_does_not_keep_us(pipes, tmp_path):
    relay = pipes.relay(tmp_path / "output.log")
    daemon = pipes.python("import os\nos.write(1, b'daemon\\n')\nos.read(os.pipe()[0], 1)")
    pipes.command("echo", "last words").wait()
    until(lambda: b"daemon" in relay.tail(100))
    assert relay.finish(20)
    assert daemon.poll() is None
    assert sorted(peek(pipes.seen_out).splitlines()) == [b"daemon", b"last words"]


def test_a_daemon_that_never_stops_printing_does_not_keep_us(pipes):
    relay = pipes.relay()
    sink = subprocess.Popen(["cat"], stdin=pipes.seen_out, stdout=subprocess.DEVNULL)
    daemon = pipes.command("yes")
    until(lambda: relay.snapshot().total_bytes > 1 << 20)
    assert relay.finish(20)
    pipes.shut("our_out")
    assert sink.wait(20) == 0
    daemon.kill()


def test_last_words_of_an_ended_command_are_never_lost(pipes):
    for _ in range(10):
        again = Pipes()
        relay = again.relay()
        again.command("sh", "-c", "printf out; printf err >&2").wait()
        assert relay.finish(20)
        assert (peek(again.seen_out), peek(again.seen_err)) == (b"out", b"err")
        again.end()


def test_a_stuck_reader_does_not_keep_us_for_ever(pipes):
    relay = pipes.relay()
    pipes.python(NUMBERS, 4, 1).wait()
    assert not relay.finish(0.1)
    assert any("not taken in time" in fault for fault in relay.snapshot().faults)


def test_the_next_attempt_is_relayed_to_the_same_places(pipes, tmp_path):
    relay = pipes.relay(tmp_path / "output.log")
    pipes.command("echo", "first").wait()
    pipes.shut("out_writer", "err_writer")
    assert collect(pipes.seen_out, 6) == b"first\n"
    reader, pipes.out_writer = os.pipe()
    pipes.err_writer = os.dup(pipes.out_writer)
    relay.attach([(reader, pipes.our_out)])
    pipes.command("echo", "second").wait()
    assert relay.finish(20)
    assert peek(pipes.seen_out) == b"second\n"
    assert (tmp_path / "output.log").read_bytes() == b"first\nsecond\n"
    assert relay.snapshot().total_bytes == 13


def test_the_log_is_rotated_and_the_newest_is_kept(pipes, tmp_path):
    relay = pipes.relay(tmp_path / "output.log", log_bytes=100)
    for word in ("a", "b", "c"):
        os.write(pipes.out_writer, word.encode() * 100)
        collect(pipes.seen_out, 100)
        until(lambda word=word: content(tmp_path / "output.log") == word.encode() * 100)
    assert relay.finish(20)
    assert (tmp_path / "output.log.1").read_bytes() == b"b" * 100


def test_a_log_from_before_is_appended_to(pipes, tmp_path):
    (tmp_path / "output.log").write_bytes(b"before\n")
    relay = pipes.relay(tmp_path / "output.log")
    os.write(pipes.out_writer, b"after\n")
    assert relay.finish(20)
    assert (tmp_path / "output.log").read_bytes() == b"before\nafter\n"


def test_a_snapshot_has_what_is_new_and_says_what_it_leaves_out(pipes):
    relay = pipes.relay()
    os.write(pipes.out_writer, b"one")
    assert collect(pipes.seen_out, 3) == b"one"
    first = relay.snapshot()
    assert (first.fresh, first.skipped, first.total_bytes, first.is_blocked) == (b"one", 0, 3, False)
    assert relay.snapshot().fresh == b""
    assert pipes.python(NUMBERS, 10, 1).wait() == 0
    until(lambda: relay.tail(16) == numbers(10)[-16:])
    assert collect(pipes.seen_out, 655360) == numbers(10)
    second = relay.snapshot()
    assert second.fresh == numbers(10)[-FRESH_LIMIT:]
    assert (second.skipped, second.total_bytes) == (655360 - FRESH_LIMIT, 655363)
    assert relay.tail(10**9) == numbers(10)[-TAIL_LIMIT:]
    assert relay.tail(0) == b""
    assert relay.finish(20)


def test_a_descriptor_that_our_caller_made_nonblocking_loses_nothing(pipes):
    os.set_blocking(pipes.our_out, False)
    relay = pipes.relay()
    assert pipes.python(NUMBERS, 100, 1).wait(60) == 0
    assert collect(pipes.seen_out, 100 * 65536) == numbers(100)
    assert relay.finish(20)


def test_two_names_of_one_terminal_keep_their_order(pipes):
    master, slave = os.openpty()
    tty.setraw(slave)
    second = os.dup(slave)
    relay = Relay.start([(pipes.out, slave), (pipes.err, second)], say_fd=second)
    for i in range(20):
        os.write(pipes.out_writer if i % 2 else pipes.err_writer, b"%03d " % i)
        assert collect(master, 4) == b"%03d " % i
    os.write(pipes.out_writer, b"half a line")
    assert collect(master, 11) == b"half a line"
    relay.say(b"unsloth-watch: hello")
    assert collect(master, 22) == b"\nunsloth-watch: hello\n"
    assert relay.finish(20)
    for fd in (master, slave, second):
        os.close(fd)


def test_a_terminal_that_hangs_up_is_given_up_and_the_log_goes_on(pipes, tmp_path):
    master, slave = os.openpty()
    relay = Relay.start([(pipes.out, slave)], str(tmp_path / "output.log"), say_fd=pipes.our_err)
    os.close(master)
    os.write(pipes.out_writer, b"unseen\n")
    until(lambda: relay.snapshot().faults)
    assert not relay.finish(20)
    assert (tmp_path / "output.log").read_bytes() == b"unseen\n"
    os.close(slave)
    os.close(pipes.err)


def test_a_pty_as_the_source_gives_its_last_bytes(tmp_path):
    seen, ours = os.pipe()
    for _ in range(5):
        master, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        relay = Relay.start([(master, ours)], say_fd=ours)
        subprocess.run(["printf", "last words"], stdout=slave, check=True)
        os.close(slave)
        assert relay.finish(20)
        assert peek(seen) == b"last words"
    os.close(seen)
    os.close(ours)


@pytest.fixture
def outlet() -> Iterator[tuple[Outlet, int]]:
    reader, writer = os.pipe()
    outlet = Outlet("stderr", writer, None)
    yield outlet, reader
    outlet.close()
    until(lambda: outlet.is_ended)
    os.close(reader)
    os.close(writer)


@pytest.mark.quick
def test_our_line_waits_for_the_end_of_the_commands_line(outlet):
    outlet, reader = outlet
    outlet.put(b"half ")
    outlet.say(b"unsloth-watch: hello")
    outlet.put(b"line\nnext ")
    wanted = b"half line\nunsloth-watch: hello\nnext "
    assert collect(reader, len(wanted)) == wanted


@pytest.mark.quick
def test_our_line_goes_out_at_once_where_no_line_is_open(outlet):
    outlet, reader = outlet
    outlet.say(b"unsloth-watch: hello")
    assert collect(reader, 21) == b"unsloth-watch: hello\n"


@pytest.mark.quick
def test_our_line_breaks_a_line_that_is_not_ended(outlet):
    outlet, reader = outlet
    outlet.put(b"\r 10%")
    outlet.say(b"unsloth-watch: hello")
    outlet.say(b"unsloth-watch: again")
    assert not outlet.release_say(is_forced=True)
    outlet.put(b"\r 20%")
    wanted = b"\r 10%\nunsloth-watch: hello\nunsloth-watch: again\n\r 20%"
    assert collect(reader, len(wanted)) == wanted


@pytest.mark.quick
def test_without_a_place_to_spill_the_newest_is_dropped_and_the_gap_marked(outlet):
    outlet, reader = outlet
    sent = 0
    while outlet.has_room():
        outlet.put(b"x" * 65536)
        sent += 65536
    outlet.put(b"lost" * 10)
    outlet.put(b"lost" * 10)
    assert outlet.lost_bytes == 80
    assert collect(reader, sent) == b"x" * sent
    assert collect(reader, len(gap_marker(80))) == gap_marker(80)
    outlet.put(b"and on\n")
    assert collect(reader, 7) == b"and on\n"


@pytest.mark.quick
def test_a_full_disk_under_our_stdout_is_waited_for_and_not_taken_for_a_reader_that_has_gone():
    full = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet("stdout", full, None)
    outlet.put(b"kept")
    until(lambda: outlet.faults)
    assert (outlet.is_dead, outlet.waiting_bytes(), len(outlet.faults)) == (False, 4, 1)
    outlet.close()
    until(lambda: outlet.is_ended)
    os.close(full)


@pytest.mark.quick
def test_one_byte_writes_do_not_become_millions_of_objects(outlet):
    outlet, reader = outlet
    for _ in range(200_000):
        outlet.put(b"x")
    assert len(outlet._memory) < 200
    assert collect(reader, 200_000) == b"x" * 200_000


def test_the_pipe_is_read_to_its_end_when_the_command_closes_it(pipes):
    relay = pipes.relay()
    pipes.shut("out_writer", "err_writer")
    until(lambda: not relay._sources)
    assert relay.finish(20)
    pipes.shut("our_out")
    assert read_to_end(pipes.seen_out) == b""


def test_the_last_words_of_a_command_that_has_ended_are_in_the_tail_once_the_relay_has_settled(tmp_path: Path) -> None:
    for number in range(30):
        reader, writer = os.pipe()
        relay = Relay.start([(reader, None)], spill_folder=str(tmp_path))
        os.write(writer, b"Traceback\n")
        subprocess.run(["sh", "-c", f"printf 'last words {number}'"], stdout=writer, check=True)
        relay.settle(20)
        assert relay.tail(1000).endswith(f"last words {number}".encode())
        os.close(writer)
        relay.finish(5)
