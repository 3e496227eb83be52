"""UNIX sockets and their other ends, from the kernel's socket diagnosis: /proc/net/unix names no peer.

Wire format: ``linux/sock_diag.h`` and ``linux/unix_diag.h``. The kernel answers for our own network namespace alone; a socket of
another one is not in the answer, and then simply not known.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from unsloth_watch.model.evidence import Connection

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_SHOW_PEER, _SHOW_QUEUES = 0x4, 0x10  # UDIAG_SHOW_PEER, UDIAG_SHOW_RQLEN
_PEER, _QUEUES = 2, 4  # UNIX_DIAG_PEER, UNIX_DIAG_RQLEN
_STATES = {1: "ESTABLISHED", 7: "CLOSE", 10: "LISTEN"}
_ANSWER_S = 0.5
_MAX_PARTS = 2000
# A part holds some hundred sockets.


def read_unix_peers() -> dict[int, Connection]:
    """Return the UNIX sockets with a peer, and those that listen, by inode; none where the kernel does not answer."""
    request = struct.pack("=IHHII", 40, _BY_FAMILY, _DUMP, 1, 0)
    request += struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_PEER | _SHOW_QUEUES, 0xFFFFFFFF, 0xFFFFFFFF)
    found: dict[int, Connection] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
            link.settimeout(_ANSWER_S)
            link.send(request)
            for _ in range(_MAX_PARTS):
                part, is_last = parse_part(link.recv(1 << 16))
                found.update(part)
                if is_last:
                    break
    except OSError:  # a seccomp profile or a kernel without CONFIG_UNIX_DIAG: what is known until here counts
        return found
    return found


def parse_part(raw: bytes) -> tuple[dict[int, Connection], bool]:
    """Return the sockets of one part of the answer, and whether it is the last."""
    found: dict[int, Connection] = {}
    offset = 0
    while offset + 16 <= len(raw):
        size, kind = struct.unpack_from("=IH", raw, offset)
        if kind in (_ERROR, _DONE) or size < 16:
            return found, True
        body = raw[offset + 16 : offset + size]
        if kind == _BY_FAMILY and len(body) >= 16:
            state, inode = struct.unpack_from("=xxBxI", body)
            attributes = dict(_attributes(body[16:]))
            peer = int.from_bytes(attributes.get(_PEER, b"")[:4], "little")
            words = attributes.get(_QUEUES, b"")
            unread = struct.unpack_from("=I", words)[0] if len(words) >= 8 else 0
            name = _STATES.get(state, "?")
            if peer or name == "LISTEN":
                remote = f"socket:[{peer}]" if peer else "*"
                found[inode] = Connection("unix", f"socket:[{inode}]", remote, name, unread_bytes=unread)
        offset += (size + 3) & ~3
    return found, False


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(raw):
        size, kind = struct.unpack_from("=HH", raw, offset)
        if size < 4:
            return
        yield kind, raw[offset + 4 : offset + size]
        offset += (size + 3) & ~3
