"""Kernel thread ids by what lies behind the threads' handles."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from unsloth_watch.capture.threadids import find_ids, read_thread_ids

TIDS = (70, 71, 72)


def block(**words: int) -> bytes:
    """Return 64 bytes with some words at byte offsets: ``at8=70``."""
    raw = bytearray(64)
    for name, value in words.items():
        struct.pack_into("=I", raw, int(name[2:]), value)
    return bytes(raw)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("blocks", "ids"),
    [
        ([block(at8=71), block(at8=70)], (71, 70)),
        ([block(at8=71, at20=72), block(at8=70)], (71, 70)),  # 72 is at 20 in one alone
        ([block(at8=70, at20=70), block(at8=71, at20=71)], (70, 71)),  # as in glibc before 2.25, which kept the PID too
        ([block(at8=70, at20=71), block(at8=71, at20=70)], None),  # either could be
        ([block(at8=70), block(at8=70)], None),  # one thread cannot have two handles
        ([block(at8=70), block(at8=99)], None),  # 99 began after the threads were listed
        ([block(at8=70), b""], None),
        ([], None),
    ],
)
def test_an_offset_has_to_hold_an_id_for_every_thread_and_no_id_twice(blocks, ids):
    assert find_ids(blocks, TIDS) == ids


def test_the_ids_of_our_own_threads_are_read_from_our_memory():
    end = threading.Event()
    others = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in others:
        thread.start()
    try:
        threads = [threading.main_thread(), *others]
        handles = [thread.ident for thread in threads if thread.ident is not None]
        tids = [int(name) for name in os.listdir("/proc/self/task")]
        assert read_thread_ids(os.getpid(), handles, tids) == tuple(thread.native_id for thread in threads)
    finally:
        end.set()
        for thread in others:
            thread.join()


def test_memory_that_cannot_be_read_has_no_ids():
    assert read_thread_ids(os.getpid(), [8], [os.getpid()]) is None
