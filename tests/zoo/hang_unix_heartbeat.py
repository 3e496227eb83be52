"""A worker that streams rows over a socketpair locks itself out; a thread of its own goes on sending heartbeats, one a second."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock", "stuck-worker"]
# culprit = ["send", "flush"]
# provable = false  # the heartbeats wake whoever waits for the rows
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import socket
import threading
import time

import zoo

lock = threading.Lock()


def beat(end):
    while True:
        end.sendall(b"alive")
        time.sleep(1)


def send(end, seconds):
    threading.Thread(target=beat, args=(end,), name="heartbeat", daemon=True).start()
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        end.sendall(bytes(4000))
        time.sleep(0.05)
    with lock:
        zoo.say_hang()
        flush()


def flush():
    with lock:
        pass


def main():
    zoo.warm_up()
    here, there = socket.socketpair()
    if os.fork() == 0:
        here.close()
        send(there, 0.5 * zoo.stall())
        os._exit(0)
    there.close()
    while here.recv(65536):
        pass


main()
