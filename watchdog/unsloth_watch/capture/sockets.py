"""Both ends of the TCP sockets of a process's network namespace, by inode."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file

# Numbers of enum tcp_state of the kernel's include/net/tcp_states.h; 0 is none.
_STATES: tuple[str, ...] = (
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
)
_STATES += ("LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")


def parse_sockets(raw: bytes, kind: str) -> dict[int, str]:
    """Return ``tcp 10.0.0.1:4000 → 10.0.0.2:443 ESTABLISHED`` by inode from a ``/proc/net/tcp`` or ``tcp6``; odd lines are skipped.

    Unsent and unread bytes are added where there are any: a full receive queue means that our side does not read.
    """
    sockets = {}
    for line in decode(raw).splitlines()[1:]:
        fields = line.split()
        try:
            unsent, unread = (int(part, 16) for part in fields[4].split(":"))
            queues = f", {unsent} B unsent, {unread} B unread" if unsent or unread else ""
            state = _STATES[int(fields[3], 16)]
            sockets[int(fields[9])] = f"{kind} {_address(fields[1])} → {_address(fields[2])} {state}{queues}"
        except (IndexError, ValueError):
            continue
    return sockets


def _address(text: str) -> str:
    """Return ``0100007F:0050`` as ``127.0.0.1:80``: the address is in words of the machine's byte order (little endian)."""
    host, _, port = text.partition(":")
    words = [int(host[index : index + 8], 16).to_bytes(4, "little") for index in range(0, len(host), 8)]
    address = ipaddress.ip_address(b"".join(words))
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{int(port, 16)}"


def read_sockets(pid: int, wanted: Collection[int]) -> dict[int, str]:
    """Return the wanted TCP sockets by inode, as the process's network namespace lists them; unreadable tables are left out."""
    found: dict[int, str] = {}
    if not wanted:
        return found
    for kind in ("tcp", "tcp6"):
        try:
            table = parse_sockets(read_file(f"/proc/{pid}/net/{kind}"), kind)
        except OSError:
            continue
        found.update({inode: words for inode, words in table.items() if inode in wanted})
    return found
