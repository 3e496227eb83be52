"""A child reads from a System V message queue into which nobody writes."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "abandoned-wait"]
# culprit = ["serve"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import ctypes
import multiprocessing

import zoo

libc = ctypes.CDLL(None)
IPC_RMID = 0


def serve(queue):
    zoo.say_hang()
    libc.msgrcv(queue, ctypes.create_string_buffer(64), ctypes.c_size_t(32), ctypes.c_long(0), 0)


def main():
    zoo.warm_up()
    queue = libc.msgget(0, 0o600)  # IPC_PRIVATE
    server = multiprocessing.get_context("fork").Process(target=serve, args=(queue,))
    try:
        server.start()
        server.join()
    finally:
        libc.msgctl(queue, IPC_RMID, None)


main()
