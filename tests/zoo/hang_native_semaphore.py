"""Native code waits for a semaphore that its own thread was to post, and that thread has ended."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait"]
# culprit = ["wait_for_result"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import ctypes
import threading

import zoo

libc = ctypes.CDLL(None)


def produce(semaphore):
    if not semaphore:
        libc.sem_post(semaphore)


def wait_for_result(semaphore):
    zoo.say_hang()
    libc.sem_wait(semaphore)


def main():
    zoo.warm_up()
    semaphore = ctypes.create_string_buffer(32)
    libc.sem_init(semaphore, 0, 0)
    producer = threading.Thread(target=produce, args=(semaphore,))
    producer.start()
    producer.join()
    wait_for_result(semaphore)


main()
