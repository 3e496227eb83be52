"""A child serves with a thread for each client and never answers; its main thread looks after its parent."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker"]
# culprit = ["serve"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time

import zoo


def serve(client):
    client.recv(100)
    client.recv(100)


def accept(listener):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def look_after(parent, listener):
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.5)


def main():
    zoo.warm_up()
    listener = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("fork")
    context.Process(target=look_after, args=(os.getpid(), listener), daemon=True).start()
    client = socket.create_connection(listener.getsockname())
    listener.close()
    client.sendall(b"generate")
    zoo.say_hang()
    client.recv(100)


main()
