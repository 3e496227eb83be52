"""A semaphore in ``multiprocessing.shared_memory``, whose name a process outside the tree is told; it maps it only to raise it."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.6*S + 3"
# needs = []
# stdin = "null"
# outside = ["wake", "waker"]
# ///

from __future__ import annotations

import ctypes
from multiprocessing.shared_memory import SharedMemory

import zoo

zoo.train(steps=3)
memory = SharedMemory(create=True, size=4096)
try:
    view = ctypes.c_char.from_buffer(memory.buf)
    semaphore, libc = ctypes.byref(view), ctypes.CDLL(None)
    assert libc.sem_init(semaphore, 1, 0) == 0
    waker = zoo.ask_waker("raise", memory.name.strip("/"))
    assert libc.sem_wait(semaphore) == 0
    del view, semaphore
finally:
    memory.close()
    memory.unlink()
zoo.train(steps=3, first=4)
zoo.finish()
