"""Threads of real processes that take data which nobody counts: found by a survey, and their wakes counted."""

from __future__ import annotations

import os
import socket
import time

import pytest

from unsloth_watch.capture.capture import survey
from unsloth_watch.judge.receipts import find_receivers
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.receiver import Receiver
from unsloth_watch.sense.receivers import read_receivers
from waiting import until

TAKE = """
import asyncio, socket, sys, threading
near = socket.socket(socket.AF_UNIX)
near.connect(sys.argv[2])
far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
far.bind(("127.0.0.1", 0))
def take(end):
    while True:
        end.recv(100)
async def loop():
    reader, _ = await asyncio.open_unix_connection(sock=near)
    while await reader.read(100):
        pass
def idle():
    asyncio.run(asyncio.Event().wait())
work = {"unix": lambda: take(near), "loop": lambda: asyncio.run(loop()), "idle": idle}
print(far.getsockname()[1], flush=True)
threading.Thread(target=take, args=(far,), daemon=True).start()
work[sys.argv[1]]()
"""


def look_at(ref: ProcessRef) -> Evidence:
    return survey((ref,), ref, at=time.monotonic(), clock=time.monotonic, is_sealed=False)


def found_in(ref: ProcessRef) -> list[Receiver]:
    return list(find_receivers(look_at(ref)).values())


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        one.listen()
        yield one


def begin(start, ref_of, listener, how):
    """Start a child that takes from us in that way; return who it is, our end, and the address of its UDP socket."""
    child = start(TAKE, how, listener.getsockname())
    end, _ = listener.accept()
    return ref_of(child.pid), end, ("127.0.0.1", int(child.said))


@pytest.mark.parametrize("how", ["unix", "loop"])
def test_each_message_wakes_whoever_waits_for_it_and_no_counter_of_reads_grows(start, ref_of, listener, how):
    ref, end, address = begin(start, ref_of, listener, how)
    with end, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        found = until(lambda: len(seen := found_in(ref)) == 2 and seen)
        assert {one.source for one in found} == {"a UNIX socket", "a UDP socket"}
        before = read_receivers(found)
        assert until(lambda: [one.is_there for one in read_receivers(found)] == [True, True])

        def has_woken():
            end.send(b"row")
            out.sendto(b"row", address)
            return all(now.vctx >= then.vctx + 5 for now, then in zip(read_receivers(found), before, strict=True))

        until(has_woken)
        for now, then in zip(read_receivers(found), before, strict=True):
            assert now.reads == then.reads


def test_a_loop_that_only_its_own_process_can_wake_is_not_found(start, ref_of, listener):
    ref, end, _ = begin(start, ref_of, listener, "idle")
    with end:
        until(lambda: is_in_epoll(ref))
        assert {one.source for one in found_in(ref)} == {"a UDP socket"}


def test_a_thread_that_waits_elsewhere_by_now_is_not_there(start, ref_of):
    child = start("import sys; print('ready', flush=True); sys.stdin.read()")
    ref = ref_of(child.pid)
    call = int(until(lambda: read_call(child.pid)))
    found = read_receivers([Receiver(ref, ref.pid, "a UNIX socket", number) for number in (call, call + 1000)])
    assert [one.is_there for one in found] == [True, False]


def read_call(pid):
    """Return the number of the call that a process sleeps in; None while it runs."""
    with open(f"/proc/{pid}/syscall") as file:
        word = file.read().split()[0]
    return None if word == "running" else word


def is_in_epoll(ref):
    main = look_at(ref).processes[0].main_thread
    return main is not None and (main.call or "").startswith("epoll")


def test_a_thread_that_has_ended_is_left_out(start, ref_of):
    child = start("import sys; print('ready', flush=True); sys.stdin.read()")
    ref = ref_of(child.pid)
    gone = Receiver(ref, os.getpid(), "a UNIX socket", 45)
    assert [one.receiver.tid for one in read_receivers([Receiver(ref, ref.pid, "a UNIX socket", 45), gone])] == [ref.pid]
