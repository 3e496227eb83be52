"""Mutated real inputs for every parser of the capture: none crashes, and none takes long.

The inputs are what this very process, py-spy and the kernel answer now; hypothesis cuts, doubles, swaps and overwrites pieces.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unsloth_watch.capture.connections import Table, parse_connections
from unsloth_watch.capture.descriptors import parse_fdinfo
from unsloth_watch.capture.dump import Dump, DumpFailure, parse_dump
from unsloth_watch.capture.host import read_cgroup
from unsloth_watch.capture.kernel import parse_record, select_lines
from unsloth_watch.capture.limits import parse_limits
from unsloth_watch.capture.locks import parse_locks
from unsloth_watch.capture.loops import find_loop
from unsloth_watch.capture.process import parse_background, parse_wait_status
from unsloth_watch.capture.pyspy import find_binary
from unsloth_watch.capture.source import find_holds
from unsloth_watch.capture.threads import parse_place
from unsloth_watch.capture.unixsockets import parse_part
from unsloth_watch.capture.waits import parse_stat, parse_status, parse_syscall, read_file

pytestmark = pytest.mark.quick
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ODD = (b"", b"\0", b"-", b"-1", b"18446744073709551616", b"\xff\xfe", b")", b"(", b":", b"\n", b" ", b"0x", b"99999999999999999999")
ME = os.getpid()


def read_or_empty(path: str) -> bytes:
    try:
        return read_file(path)
    except OSError:
        return b""


def dump_of_myself() -> bytes:
    binary = find_binary()
    assert binary is not None
    answer = subprocess.run([binary, "dump", "--json", "--nonblocking", "--pid", str(ME)], capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def diagnosis_of_unix_sockets() -> bytes:
    """Return the kernel's raw answer to the question that unixsockets.py asks."""
    request = struct.pack("=IHHII", 40, 20, 0x301, 1, 0) + struct.pack(
        "=BBHIIIII", 1, 0, 0, 0xFFFFFFFF, 0, 0x14, 0xFFFFFFFF, 0xFFFFFFFF
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as link:
        link.settimeout(2)
        link.send(request)
        return link.recv(1 << 16)


@st.composite
def mutate(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return real bytes with up to four pieces cut, doubled, moved or overwritten."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = bytes(data[start:end])
        kind = draw(st.sampled_from(("cut", "double", "odd", "noise", "truncate")))
        if kind == "cut":
            del data[start:end]
        elif kind == "double":
            data[start:start] = piece * draw(st.integers(1, 3))
        elif kind == "odd":
            data[start:end] = draw(st.sampled_from(ODD))
        elif kind == "noise":
            data[start:end] = draw(st.binary(max_size=40))
        else:
            del data[start:]
    return bytes(data)


def _locks(raw: bytes) -> object:
    return parse_locks(raw.decode("utf-8", "replace"))


def _connections(raw: bytes) -> object:
    table = Table(parse_connections(raw, "tcp"))
    return [(str(one), table.find_peer(one)) for one in table.sockets.values()]


def _unix(raw: bytes) -> object:
    sockets, _ = parse_part(raw)
    return [str(one) for one in sockets.values()]


def _source(raw: bytes) -> object:
    lines = raw.decode("utf-8", "replace").split("\n")
    looped = [find_loop(lines, line) for line in range(0, len(lines) + 2, 25)]
    return looped, [find_holds(lines, line, "mutate") for line in range(1, len(lines) + 1, 25)]


def _kernel(raw: bytes) -> object:
    return parse_record(raw), select_lines(raw.decode("utf-8", "replace").splitlines(), {ME})


PARSERS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "stat": (lambda: read_file(f"/proc/{ME}/stat"), lambda raw: (parse_stat(raw), parse_background(raw), parse_wait_status(raw))),
    "status": (lambda: read_file(f"/proc/{ME}/status"), parse_status),
    "syscall": (lambda: b"202 0x7f1 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f2\n", parse_syscall),
    "limits": (lambda: read_file(f"/proc/{ME}/limits"), parse_limits),
    "maps": (lambda: read_file(f"/proc/{ME}/maps"), lambda raw: (parse_place(raw, 0x7F0000000000),)),
    "fdinfo": (lambda: read_file(f"/proc/{ME}/fdinfo/1"), lambda raw: parse_fdinfo(1, "/dev/null", raw)),
    "locks": (lambda: read_or_empty("/proc/locks") or b"1: FLOCK  ADVISORY  WRITE 2 fe:00:3 0 EOF\n", _locks),
    "tcp": (lambda: read_or_empty("/proc/net/tcp"), _connections),
    "unix": (diagnosis_of_unix_sockets, _unix),
    "cgroup": (lambda: read_file(f"/proc/{ME}/cgroup"), lambda raw: read_cgroup(raw.decode("utf-8", "replace"), "/nowhere")),
    "kernel log": (lambda: b"6,339,5140900,-;NVRM: Xid (PCI:0000:4b:00): 79, pid=12, GPU has fallen off the bus.\n", _kernel),
    "source": (lambda: read_file(__file__), _source),
    "dump": (dump_of_myself, lambda raw: parse_dump(raw, "plain")),
}


@functools.cache
def original(name: str) -> bytes:
    return PARSERS[name][0]()


@pytest.mark.parametrize("name", PARSERS)
def test_the_real_input_is_understood(name: str):
    parsed = PARSERS[name][1](original(name))
    assert not isinstance(parsed, DumpFailure)
    assert parsed is not None


@pytest.mark.parametrize("name", PARSERS)
@BOUNDED
@given(data=st.data())
def test_a_mutated_input_breaks_no_parser(name: str, data: st.DataObject):
    parsed = PARSERS[name][1](data.draw(mutate(original(name))))
    assert not isinstance(parsed, Dump) or all(thread.frames is not None for thread in parsed.threads)
