"""Sockets of real processes: both ends, queues, and who is at the other end."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest

from unsloth_watch.capture.capture import capture
from unsloth_watch.capture.connections import name_peers, read_namespaces, read_table
from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.unixsockets import read_unix_peers
from unsloth_watch.model.evidence import Connection

CLIENT = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
client.recv(1)
"""
PAIR = """
import os, socket, sys, time
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    theirs.recv(1)
    os._exit(0)
theirs.close()
print("ready", flush=True)
ours.recv(1)
"""


def inode_of(end: socket.socket) -> int:
    return os.fstat(end.fileno()).st_ino


def test_a_waiting_client_is_captured_with_its_peer_of_another_process(start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        target = start(CLIENT, port)
        target.await_call("recvfrom")
        accepted, _ = server.accept()
        with accepted:
            evidence = capture([target.ref], target.ref, at=0.0, clock=time.monotonic)
    thread = evidence.processes[0].threads[0]
    connection = next(item.connection for item in evidence.processes[0].descriptors or () if item.fd in thread.wait_fds)
    assert connection is not None
    assert (connection.kind, connection.state) == ("tcp", "ESTABLISHED")
    assert connection.remote == f"127.0.0.1:{port}"
    assert connection.peer_pid == os.getpid()
    assert connection.peer_command


def test_what_was_not_read_is_counted_at_its_own_end():
    first, second = socket.socketpair()
    with first, second:
        first.send(b"abc")
        peers = read_unix_peers()
        assert peers[inode_of(second)].unread_bytes == 3
        assert peers[inode_of(first)].unread_bytes == 0
        assert peers[inode_of(first)].remote == f"socket:[{inode_of(second)}]"


def test_both_ends_of_a_pair_name_each_other_across_a_fork(start):
    target = start(PAIR)
    target.await_call("recvfrom")
    evidence = capture([target.ref], target.ref, at=0.0, clock=time.monotonic)
    connections = [item.connection for item in evidence.processes[0].descriptors or () if item.connection is not None]
    assert [connection.kind for connection in connections] == ["unix"]
    assert connections[0].peer_pid not in (None, target.pid)


def test_the_peer_is_found_over_a_socket_of_version_6_too():
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])) as client,
        server.accept()[0],
    ):
        table, inode = read_table(os.getpid()), inode_of(client)
        found = name_peers(table.select({inode}), table, Deadline(5.0))[inode]
    assert found.peer_pid == os.getpid()


def test_a_listening_socket_has_no_peer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        table = read_table(os.getpid())
        found = name_peers(table.select({inode_of(server)}), table, Deadline(5.0))[inode_of(server)]
    assert (found.state, found.peer_pid) == ("LISTEN", None)


@pytest.mark.parametrize("place", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_connection_that_nobody_has_accepted_is_with_the_socket_that_listens(place: str):
    with socket.create_server((place, 0), family=socket.AF_INET6 if ":" in place else socket.AF_INET) as listener:
        listener.settimeout(10)
        with socket.create_connection(("::1" if ":" in place else "127.0.0.1", listener.getsockname()[1])) as client:
            [waiting] = read_table(os.getpid()).select({inode_of(client)}).values()
            assert waiting.listener == f"socket:[{inode_of(listener)}]"
            with listener.accept()[0]:
                [accepted] = read_table(os.getpid()).select({inode_of(client)}).values()
                assert accepted.listener is None


def test_of_two_sockets_that_listen_on_one_port_none_is_named():
    with contextlib.ExitStack() as stack:
        port = 0
        for _ in range(2):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        [waiting] = read_table(os.getpid()).select({inode_of(client)}).values()
        assert waiting.listener is None


def test_one_network_namespace_is_read_once():
    groups = list(read_namespaces([os.getpid(), os.getppid()]))
    assert [pids for pids, _ in groups] == [{os.getpid(), os.getppid()}]


@pytest.mark.quick
def test_a_connection_is_told_in_the_words_that_the_other_end_is_found_by():
    assert str(Connection("tcp", "a:1", "b:2", "ESTABLISHED")).split() == ["tcp", "a:1", "→", "b:2", "ESTABLISHED"]
    assert str(Connection("tcp", "a:1", "b:2", "ESTABLISHED", 0, 7)).endswith("ESTABLISHED, 0 B unsent, 7 B unread")
