"""Native code spins on a lock and holds the GIL."""

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["pthread_spin_lock", "wait_for_kernel"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "rhythm"
# ///

from __future__ import annotations

import ctypes

import zoo

libc = ctypes.PyDLL(None)


def wait_for_kernel(flag):
    libc.pthread_spin_lock(flag)
    libc.pthread_spin_lock(flag)


def main():
    zoo.warm_up()
    zoo.say_hang()
    wait_for_kernel(ctypes.create_string_buffer(64))


main()
