"""The sockets of a process's network namespace by inode: both ends, the state, the queues, and who is at the other end here."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.locks import read_command_line
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.unixsockets import read_unix_peers
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import Connection

# Numbers of enum tcp_state of the kernel's include/net/tcp_states.h; 0 is none. UDP uses 1 for connected and 7 for not.
_STATES = (
    *("?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT"),
    *("LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"),
)
_TABLES = ("tcp", "tcp6", "udp", "udp6")
MAX_PEERS = 64
"""Sockets whose other end is looked for; one search through 300 processes takes about 20 ms for all of them."""


def parse_connections(raw: bytes, kind: str) -> dict[int, Connection]:
    """Return the sockets of a ``/proc/net/tcp``, ``tcp6``, ``udp`` or ``udp6`` by inode; lines that cannot be read are skipped."""
    found = {}
    for line in decode(raw).splitlines()[1:]:
        fields = line.split()
        try:
            unsent, unread = (int(part, 16) for part in fields[4].split(":"))
            state = _STATES[int(fields[3], 16)]
            if state == "CLOSE" and kind.startswith("udp"):
                state = "UNCONNECTED"
            local, remote = _address(fields[1]), _address(fields[2])
            found[int(fields[9])] = Connection(kind, local, remote, state, unsent, unread)
        except (IndexError, ValueError):
            continue
    return found


def parse_pending(raw: bytes) -> set[tuple[str, str]]:
    """Return local and remote end of the connections that nobody has accepted yet: the kernel gives them no inode before."""
    found = set()
    for line in decode(raw).splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[9] == "0" and fields[3] == "01":
            try:
                found.add((_address(fields[1]), _address(fields[2])))
            except ValueError:
                continue
    return found


def _address(text: str) -> str:
    """Return ``0100007F:0050`` as ``127.0.0.1:80``: the address is in words of the machine's byte order (little endian)."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[index : index + 8])[::-1] for index in range(0, len(host), 8)]
    address = ipaddress.ip_address(b"".join(words))
    # A socket of version 6 that speaks version 4: in one spelling, so that both ends of it can be matched.
    address = getattr(address, "ipv4_mapped", None) or address
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{int(port, 16)}"


class Table(msgspec.Struct, frozen=True):
    """All sockets of one network namespace.

    Attributes:
        sockets: By inode.
        pending: Local and remote end of connections that nobody has accepted yet.
    """

    sockets: Mapping[int, Connection]
    pending: Collection[tuple[str, str]] = frozenset()

    def select(self, wanted: Collection[int]) -> dict[int, Connection]:
        """Return the wanted ones that are there."""
        found = {inode: self.sockets[inode] for inode in wanted if inode in self.sockets}
        for inode, one in found.items():
            if (one.remote, one.local) in self.pending:
                found[inode] = msgspec.structs.replace(one, listener=self._find_listener(one.remote))
        return found

    def _find_listener(self, address: str) -> str | None:
        """Return the socket that listens on an address; None where several do, each of which may have the connection."""
        port = address.rpartition(":")[2]
        places = {address, f"0.0.0.0:{port}", f"[::]:{port}"}
        listening = [inode for inode, one in self.sockets.items() if one.state == "LISTEN" and one.local in places]
        return f"socket:[{listening[0]}]" if len(listening) == 1 else None

    def find_peer(self, connection: Connection) -> int | None:
        """Return the inode of the other end, where it is in this namespace too."""
        if connection.kind == "unix":
            inode = connection.remote.removeprefix("socket:[").removesuffix("]")
            return int(inode) if inode.isdecimal() else None
        ends = (connection.remote, connection.local)
        return next(
            (
                inode
                for inode, other in self.sockets.items()
                if other.kind[:3] == connection.kind[:3] and (other.local, other.remote) == ends
            ),
            None,
        )


def read_table(pid: int) -> Table:
    """Return the sockets that a process's network namespace has; tables that cannot be read are left out."""
    found: dict[int, Connection] = {}
    pending: set[tuple[str, str]] = set()
    for kind in _TABLES:
        try:
            raw = read_file(f"/proc/{pid}/net/{kind}")
        except OSError:
            continue
        found.update(parse_connections(raw, kind))
        if kind.startswith("tcp"):
            pending |= parse_pending(raw)
    found.update(read_unix_peers())
    return Table(found, pending)


def read_namespaces(pids: Sequence[int]) -> Iterator[tuple[set[int], Table]]:
    """Yield the processes of each network namespace and its sockets: the table of a busy host takes 10 ms, and is read once."""
    groups: dict[str, set[int]] = {}
    for pid in pids:
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/net")
        except OSError:  # it has ended, or is another user's: a table of its own is tried all the same
            namespace = f"of PID {pid}"
        groups.setdefault(namespace, set()).add(pid)
    for members in groups.values():
        yield members, read_table(min(members))


def name_peers(connections: Mapping[int, Connection], table: Table, deadline: Deadline) -> dict[int, Connection]:
    """Return the connections with the process at the other end, where that is on this machine and may be asked.

    Args:
        connections: By inode; the first `MAX_PEERS` are looked for.
        table: Their namespace.
        deadline: Ends the search.
    """
    wanted: dict[str, int] = {}
    for inode, connection in list(connections.items())[:MAX_PEERS]:
        peer = table.find_peer(connection)
        if peer is not None and connection.state != "LISTEN":
            wanted[f"socket:[{peer}]"] = inode
    named = dict(connections)
    if not wanted:
        return named
    for name in os.listdir("/proc"):
        if not name.isdecimal() or deadline.is_over or not wanted:
            continue
        for target in _list_sockets(name) & wanted.keys():
            inode = wanted.pop(target)
            named[inode] = msgspec.structs.replace(named[inode], peer_pid=int(name), peer_command=read_command_line(int(name)))
    return named


def _list_sockets(pid: str) -> set[str]:
    """Return the sockets that a process has open; none where it has ended or keeps them to itself."""
    found = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    found.add(target)
    except OSError:
        return set()
    return found
