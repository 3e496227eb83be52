"""TCP connections of the job, and the bytes that went through each.

``recv`` and ``send`` are in no counter of ``/proc/PID/io``; only ``sock_diag`` counts them. Not seen: UDP (QUIC), RDMA, and sockets
between the job's own processes other than TCP; see ``receivers``. A process in another network namespace than ours (a container) is
asked about in vain; where it has connections, ``why`` says that they are unknown. MPTCP is seen by its first path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import ConnectionSample
from unsloth_watch.sense.inetdiag import InetDiag, Socket, format_address, plain_address

REST_S = 1.9
"""Seconds from one question to the next: the judge wants to see a flow three times within six seconds, and takes looks that are
rarer than its ticks for what they are. The kernel goes through all sockets of the host: 0.5 ms for 60 of them, 1.5 ms for 600
(Linux 6.18), which every second would be as much as half of all other senses."""
_CONNECTED = b"01"  # ESTABLISHED, as /proc/net/tcp prints it


class ConnectionReader:
    """Reads the job's connections.

    Args:
        monotonic: Monotonic seconds.

    Attributes:
        why: Why some connections are unknown, or all after an answer of None.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.why: str | None = None
        self._monotonic = monotonic
        self._diag = InetDiag()
        self._namespaces: dict[ProcessRef, str | None] = {}
        self._own_namespace: str | None = None
        self._newest: tuple[ConnectionSample, ...] | None = ()
        self._next = 0.0

    def read(self, sockets: Mapping[ProcessRef, frozenset[int]]) -> tuple[ConnectionSample, ...] | None:
        """Return the connections among these sockets; None where there are some and none can be seen.

        Args:
            sockets: Inodes of the sockets of each process of the job, of any kind.
        """
        wanted: frozenset[int] = frozenset().union(*sockets.values())
        if not wanted:
            self.why, self._newest = None, ()
            return ()
        now = self._monotonic()
        # Between two questions the last answer stands: counters only grow.
        if now >= self._next:
            self._newest = self._ask(sockets, wanted)
            self._next = now + REST_S
        return self._newest

    def close(self) -> None:
        """Give the netlink socket back."""
        self._diag.close()

    def _ask(self, sockets: Mapping[ProcessRef, frozenset[int]], wanted: frozenset[int]) -> tuple[ConnectionSample, ...] | None:
        self.why = None
        elsewhere = [ref for ref in sockets if sockets[ref] and not self._is_here(ref)]
        self._namespaces = {ref: name for ref, name in self._namespaces.items() if ref in sockets}
        for ref in elsewhere:
            if _has_connections(ref.pid, sockets[ref]):
                self.why = f"PID {ref} has TCP connections in another network namespace, where nothing counts their bytes for us"
        try:
            found = self._diag.list_sockets(wanted)
        except OSError as error:
            if not any(_has_connections(ref.pid, inodes) for ref, inodes in sockets.items()):
                return ()
            self.why = f"the kernel does not tell bytes of TCP connections (sock_diag: {error.strerror or error})"
            return None
        if any(one.received is None or one.acked is None for one in found):
            self.why = "this kernel does not count bytes of TCP connections (before 4.1)"
            return None
        return _join(found)

    def _is_here(self, ref: ProcessRef) -> bool:
        """Whether a process is in our network namespace; one that may not be asked counts as if it were."""
        if self._own_namespace is None:
            self._own_namespace = _read_namespace("self")
        if ref not in self._namespaces:
            self._namespaces[ref] = _read_namespace(str(ref.pid))
        return self._namespaces[ref] in (None, self._own_namespace)


def _read_namespace(pid: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it is gone, or another user's
        return None


def _has_connections(pid: int, inodes: frozenset[int]) -> bool:
    """Whether one of a process's sockets is an established TCP connection, as its own namespace lists them, bytes unknown."""
    for kind in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{kind}", "rb") as table:
                for line in table:
                    fields = line.split(None, 10)
                    if len(fields) > 10 and fields[3] == _CONNECTED and int(fields[9]) in inodes:
                        return True
        except OSError:  # it is gone, or there is no IPv6
            continue
    return False


def _join(found: list[Socket]) -> tuple[ConnectionSample, ...]:
    ends = {(plain_address(one.local), plain_address(one.remote)) for one in found}
    return tuple(
        ConnectionSample(
            inode=one.inode,
            peer=format_address(one.remote),
            # Unread bytes are the other end's doing: a job that hangs still fills its buffers.
            received=max(0, (one.received or 0) - one.unread),
            sent=one.acked or 0,
            is_inside=(plain_address(one.remote), plain_address(one.local)) in ends,
        )
        for one in found
    )
