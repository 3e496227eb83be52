"""A telemetry thread sends a kilobyte every two seconds and reads the answer, as wandb does; the main thread locks itself out."""

# /// zoo
# expect = "hang"
# causes = ["thread-deadlock"]
# culprit = ["on_step", "record"]
# provable = false  # the telemetry's server answers, or ends the connection
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# outside = ["serve", "echo", "port"]
# ///

from __future__ import annotations

import json
import os
import socket
import threading
import time

import zoo

lock = threading.Lock()


def chat(port):
    with socket.create_connection(("127.0.0.1", port)) as server:
        while True:
            server.sendall(json.dumps({"cpu": os.getloadavg(), "at": time.time(), "pad": "x" * 900}).encode())
            server.recv(4096)
            time.sleep(2)


def record():
    with lock:
        zoo.say_hang()
        on_step()


def on_step():
    with lock:
        print("recorded")


def main():
    threading.Thread(target=chat, args=(zoo.port("echo"),), name="telemetry", daemon=True).start()
    zoo.warm_up()
    record()


main()
