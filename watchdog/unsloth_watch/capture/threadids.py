"""Kernel thread ids by thread handle: the C library keeps each thread's id in what ``pthread_t`` points to.

Before Python 3.11 an interpreter does not know the kernel ids of its threads, and py-spy finds them only by a pause. The offset
differs between machines and C libraries, so none is assumed: it is the one at which every thread has the id of a thread of the
process, and no two the same.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

from unsloth_watch.capture.memory import read_memory

SPAN = 1024
"""Bytes that are searched; 720 of them lie before the id with glibc 2.36 on x86-64."""
_ID = struct.Struct("=I")


def read_thread_ids(pid: int, handles: Sequence[int], tids: Collection[int]) -> tuple[int, ...] | None:
    """Return the kernel thread id of each handle; None where they cannot be told for certain.

    Args:
        pid: Process, whose memory is read: at most ``SPAN`` bytes a thread.
        handles: ``pthread_t`` of its threads.
        tids: Ids of all of its threads in its own PID namespace, as its C library knows them.
    """
    blocks = [read_memory(pid, handle, SPAN) for handle in handles]
    whole = [block for block in blocks if block is not None]
    return find_ids(whole, tids) if whole and len(whole) == len(blocks) else None


def find_ids(blocks: Sequence[bytes], tids: Collection[int]) -> tuple[int, ...] | None:
    """Return the ids at the one offset where all blocks have an id, no two the same; None without one, or where offsets differ.

    Args:
        blocks: What lies behind each handle.
        tids: Ids that there are.
    """
    answers = set()
    known = frozenset(tids)
    for offset in range(0, min(map(len, blocks), default=0) - _ID.size + 1, _ID.size):
        found = tuple(_ID.unpack_from(block, offset)[0] for block in blocks)
        if known.issuperset(found) and len(set(found)) == len(found):
            answers.add(found)
    return answers.pop() if len(answers) == 1 else None
