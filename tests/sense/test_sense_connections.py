"""TCP connections of real processes: bytes that were read and acknowledged, whose other end is whose, and what cannot be seen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from unsloth_watch.sense.connections import REST_S, ConnectionReader
from unsloth_watch.sense.files import FileReader
from unsloth_watch.sense.inetdiag import InetDiag, format_address, plain_address
from unsloth_watch.sense.sampler import Sampler
from unsloth_watch.sense.tree import ProcessTree
from waiting import until

CLIENT = (
    "import socket, sys\nfamily = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
    "near = socket.socket(family)\nnear.connect((sys.argv[1], int(sys.argv[2])))\nprint('ready', flush=True)\n"
    "for line in sys.stdin:\n    exec(line); print('done', flush=True)"
)
BOTH_ENDS = (
    "import os, socket, sys\nlistener = socket.create_server(('127.0.0.1', 0))\n"
    "if os.fork():\n    far, _ = listener.accept(); listener.close(); print('ready', flush=True); sys.stdin.read(); os._exit(0)\n"
    "near = socket.create_connection(listener.getsockname()); listener.close(); near.recv(1)"
)


def do(child, code):
    child.stdin.write(code + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def read(*refs, reader=None):
    files = FileReader()
    files.read(refs)
    reader = reader or ConnectionReader()
    try:
        return reader.read(files.sockets())
    finally:
        reader.close()


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def joined(start, ref_of, server):
    """A child that is connected to us."""
    child = start(CLIENT, "127.0.0.1", str(server.getsockname()[1]))
    far, _ = server.accept()
    with far:
        yield child, ref_of(child.pid), far


def test_bytes_count_when_the_job_has_read_them_and_not_when_they_merely_came(joined):
    child, ref, far = joined
    far.sendall(bytes(5000))
    # They are there when the child can look at them without taking them.
    do(child, "while len(near.recv(5000, socket.MSG_PEEK)) < 5000: pass")
    [before] = read(ref)
    assert (before.received, before.is_inside) == (0, False)
    assert before.peer == "{}:{}".format(*far.getsockname())
    do(child, "assert len(near.recv(3000, socket.MSG_WAITALL)) == 3000")
    [after] = read(ref)
    assert (after.inode, after.received) == (before.inode, 3000)


def test_bytes_that_were_sent_count_when_the_other_end_has_acknowledged_them(joined):
    child, ref, far = joined
    [before] = read(ref)
    do(child, "near.sendall(bytes(4000))")
    assert until(lambda: read(ref)[0].sent - before.sent) == 4000
    assert far.recv(4000, socket.MSG_WAITALL) == bytes(4000)


def test_connections_over_ipv6_are_seen(start, ref_of):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = str(listener.getsockname()[1])
        six, four = start(CLIENT, "::1", port), start(CLIENT, "127.0.0.1", port)
        refs = ref_of(six.pid), ref_of(four.pid)
        assert {one.peer for one in read(*refs)} == {f"[::1]:{port}", f"127.0.0.1:{port}"}


def test_a_connection_between_two_processes_of_the_job_is_inside(start, ref_of):
    parent = start(BOTH_ENDS)
    with open(f"/proc/{parent.pid}/task/{parent.pid}/children") as file:
        refs = ref_of(parent.pid), ref_of(int(file.read()))
    found = until(lambda: len(ends := read(*refs)) == 2 and ends)
    assert [one.is_inside for one in found] == [True, True]
    # One of them alone is a job that talks to somebody else.
    assert [one.is_inside for one in read(refs[0])] == [False]


def test_listeners_pairs_and_datagram_sockets_are_no_connections(start, ref_of):
    child = start(
        "import socket, sys\na = socket.create_server(('127.0.0.1', 0)); b, c = socket.socketpair()\n"
        "d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nprint('ready', flush=True); sys.stdin.read()"
    )
    assert read(ref_of(child.pid)) == ()


def test_a_job_without_sockets_is_not_asked_about(start, ref_of):
    child = start("import sys; print('ready', flush=True); sys.stdin.read()")
    assert read(ref_of(child.pid), reader=Broken()) == ()


def test_a_socket_that_was_closed_is_forgotten_when_the_search_comes_round(joined):
    child, ref, _ = joined
    files = FileReader(round_every=1)
    files.read((ref,))
    assert len(files.sockets()[ref]) == 1
    do(child, "near.close()")
    files.read((ref,))
    files.read((ref,))
    assert files.sockets() == {}


class Broken(ConnectionReader):
    """A reader on a kernel that refuses."""

    def __init__(self):
        super().__init__()
        self._diag = Refusing()


class Refusing(InetDiag):
    def list_sockets(self, wanted):
        raise OSError(2, "No such file or directory")


def test_where_the_kernel_refuses_connections_are_unknown_and_never_none(joined):
    _, ref, _ = joined
    reader = Broken()
    assert read(ref, reader=reader) is None
    assert "sock_diag: No such file" in reader.why


def test_where_the_kernel_refuses_a_job_without_connections_is_none_the_worse(start, ref_of):
    child = start("import socket, sys; a, b = socket.socketpair(); print('ready', flush=True); sys.stdin.read()")
    reader = Broken()
    assert read(ref_of(child.pid), reader=reader) == ()
    assert reader.why is None


def test_a_connection_in_another_network_namespace_is_unknown_and_said_and_hides_no_other(start, ref_of, joined):
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("cannot make a network namespace: run as root")
    code = (
        "import ctypes, fcntl, os, socket, struct, sys\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\n"  # CLONE_NEWNET
        "probe = socket.socket(); fcntl.ioctl(probe, 0x8914, struct.pack('16sh', b'lo', 0x41)); probe.close()\n"  # SIOCSIFFLAGS
        "if len(sys.argv) > 1:\n    a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname())\n"
        "else:\n    a, b = socket.socketpair()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    _, ref, _ = joined
    seen = read(ref)
    assert len(seen) == 1
    connected, other = start(code, "connect"), start(code)
    reader = ConnectionReader()
    assert read(ref_of(connected.pid), ref, reader=reader) == seen
    assert f"PID {connected.pid} has TCP connections in another network namespace" in reader.why
    reader = ConnectionReader()
    assert read(ref_of(other.pid), ref, reader=reader) == seen
    assert reader.why is None


def test_between_two_questions_to_the_kernel_the_last_answer_stands(joined):
    child, ref, _ = joined
    now = iter([0.0, 0.5 * REST_S, REST_S, 2 * REST_S - 0.1, 2 * REST_S])
    reader = ConnectionReader(monotonic=lambda: next(now))
    files = FileReader()
    files.read((ref,))
    seen = []
    for _ in range(5):
        do(child, "near.sendall(bytes(1000))")
        [one] = reader.read(files.sockets())
        seen.append(one.sent)
    reader.close()
    first, second, third, fourth, fifth = seen
    assert first == second < third == fourth < fifth


def test_the_sampler_has_the_connections_of_the_job(start, server):
    port = str(server.getsockname()[1])
    guardian = start(
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-I', '-S', '-c', *sys.argv[1:]],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\nprint(child.stdout.readline(), flush=True); sys.stdin.read()",
        CLIENT, "127.0.0.1", port,
    )  # fmt: skip
    sampler = Sampler(ProcessTree((guardian.pid,)), None, FileReader(), None, 1.0)
    [one] = sampler.sample(0.0, 0.0).connections
    assert one.peer == f"127.0.0.1:{port}"
    sampler.close()


@pytest.mark.quick
def test_addresses_are_shown_as_people_write_them():
    port = (443).to_bytes(2, "big")
    assert format_address(bytes([10, 0, 0, 1]) + port) == "10.0.0.1:443"
    assert format_address(bytes(15) + b"\1" + port) == "[::1]:443"
    mapped = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]) + port
    assert format_address(mapped) == "10.0.0.1:443"
    assert plain_address(mapped) == bytes([10, 0, 0, 1]) + port


def test_the_kernel_may_be_asked_by_anybody():
    """What ``sock_diag`` tells needs no privilege: an unprivileged child sees its own connection."""
    code = (
        "import os, socket\nfrom unsloth_watch.sense.inetdiag import InetDiag\n"
        "a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname())\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "print(len(InetDiag().list_sockets({os.fstat(b.fileno()).st_ino})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_bytes_over_mptcp_are_counted_on_its_first_path():
    try:
        listener, near = (socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) for _ in range(2))
    except OSError as error:
        pytest.skip(f"this kernel makes no MPTCP sockets: {error}")
    with listener, near:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            near.sendall(bytes(4000))
            assert far.recv(4000, socket.MSG_WAITALL) == bytes(4000)
            inode = os.fstat(far.fileno()).st_ino
            diag = InetDiag()
            assert until(lambda: [one.received for one in diag.list_sockets({inode})]) == [4000]
            diag.close()
