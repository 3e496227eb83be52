"""Somebody outside the watched tree: holds a lock, or serves on loopback. ``outside.py KIND [MODE] PATH``; prints ``ready``.

flock PATH, fcntl PATH: hold that lock. serve MODE PATH: listen, write the port to PATH; MODE is one of

- ``silent``: accept, take the request and never answer
- ``half``: answer a GET with half a file, then nothing
- ``trickle``: 3 kB/s
- ``steady``: 200 kB/s
- ``busy``: always 503
- ``sink``: read whatever comes, 200 kB/s at most, answer nothing
- ``echo``: answer every line
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import threading
import time

SIZE = 60_000_000
HEADERS = '\r\nX-Repo-Commit: 0123456789012345678901234567890123456789\r\nETag: "zoo-1"\r\nConnection: close\r\n\r\n'


def main() -> None:
    """Do what the arguments say until the process that started this one ends."""
    signal.alarm(int(os.environ.get("ZOO_LIMIT", "300")))
    parent = os.getppid()
    kind, path = sys.argv[1], sys.argv[-1]
    if kind == "serve":
        listener = socket.create_server(("127.0.0.1", 0))
        with open(path, "w") as file:
            file.write(str(listener.getsockname()[1]))
        threading.Thread(target=accept, args=(listener, sys.argv[2]), daemon=True).start()
    else:
        file = open(path, "a+")  # held for life
        (fcntl.flock if kind == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX)
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(1)


def accept(listener: socket.socket, mode: str) -> None:
    """Serve every client in a thread."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, mode), daemon=True).start()


def serve(client: socket.socket, mode: str) -> None:
    """Serve one client in the given mode."""
    try:
        if mode == "sink":
            while client.recv(20_000):
                time.sleep(0.1)
        elif mode == "echo":
            while data := client.recv(4096):
                client.sendall(data)
        else:
            answer(client, mode)
    except OSError:
        pass
    client.close()


def answer(client: socket.socket, mode: str) -> None:
    """Answer one HTTP request."""
    request = b""
    while b"\r\n\r\n" not in request:
        piece = client.recv(4096)
        if not piece:
            return
        request += piece
    if request.startswith(b"GET /api/"):
        # What huggingface_hub asks beside the file (agent-harnesses) has a timeout of its own and is not the point.
        client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    if mode == "silent":
        time.sleep(10_000)
    stall_s = float(os.environ.get("ZOO_STALL", "20"))
    size = int({"trickle": 3000 * 3 * stall_s, "steady": 200_000 * 3 * stall_s}.get(mode, SIZE))
    if mode == "busy":
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}{HEADERS}".encode())
    if request.startswith(b"HEAD"):
        return
    size_of_piece, pause_s = {"half": (65_536, 0.0), "trickle": (300, 0.1), "steady": (20_000, 0.1)}[mode]
    sent = 0
    while sent < size:
        if mode == "half" and sent >= min(size // 2, 4_000_000):
            time.sleep(10_000)
        client.sendall(b"\0" * min(size_of_piece, size - sent))
        sent += size_of_piece
        time.sleep(pause_s)


main()
