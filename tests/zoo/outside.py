"""Somebody outside the watched tree: holds a lock, or serves on loopback. ``outside.py KIND [MODE] PATH``; prints ``ready``.

wake PATH: listen on a UNIX socket there. A program says ``KIND SECONDS WORDS``, may pass a descriptor, and after so many seconds it is
woken: ``answer`` by a line on that connection, ``write`` by eight bytes into the descriptor, ``close`` by closing it (flock), ``touch``
by making a file, ``fifo`` by a line into one, ``post`` by raising a named semaphore, ``raise`` by raising one at the beginning of shared
memory with a name, ``signal`` by sending one to a process, ``manager`` by an item for the queue of a ``multiprocessing`` manager.
``stream`` sends 80 kB/s meanwhile.

flock PATH, fcntl PATH: hold that lock. sqlite PATH: make a database and keep a write transaction open. serve MODE PATH: listen, write
the port to PATH; MODE is one of

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
    elif kind == "wake":
        waker = socket.socket(socket.AF_UNIX)
        waker.bind(path)
        waker.listen()
        threading.Thread(target=accept, args=(waker, "wake"), daemon=True).start()
    elif kind == "sqlite":
        import sqlite3

        database = sqlite3.connect(path, isolation_level=None)
        database.execute("CREATE TABLE trials (loss REAL)")
        database.execute("BEGIN IMMEDIATE")  # held for life
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
        if mode == "wake":
            wake(client)
        elif mode == "sink":
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


def wake(client: socket.socket) -> None:
    """Wake one program in the way and after the time that it asks for."""
    request, descriptors, _, _ = socket.recv_fds(client, 4096, 1)
    kind, seconds, *words = request.decode().split()
    if kind == "flock":
        held = open(words[0], "a+")
        fcntl.flock(held, fcntl.LOCK_EX)
    client.sendall(b"!")
    if kind == "stream":
        stream(client, float(seconds))
        return
    time.sleep(float(seconds))
    if kind == "answer":
        client.sendall(b"answer\n")
    elif kind == "write":
        os.write(descriptors[0], (1).to_bytes(8, "little"))
    elif kind == "flock":
        held.close()
    elif kind == "touch":
        open(words[0], "x").close()
    elif kind == "fifo":
        with open(words[0], "w") as fifo:
            fifo.write("answer\n")
    elif kind == "post":
        import _multiprocessing

        _multiprocessing.SemLock._rebuild(0, 1, 1, words[0]).release()
    elif kind == "raise":
        import ctypes
        import mmap

        with open(f"/dev/shm/{words[0]}", "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        ctypes.CDLL(None).sem_post(ctypes.byref(ctypes.c_char.from_buffer(memory)))
    elif kind == "signal":
        os.kill(int(words[0]), int(words[1]))
    elif kind == "manager":
        from multiprocessing.managers import BaseManager

        BaseManager.register("orders")
        manager = BaseManager(("127.0.0.1", int(words[0])), b"zoo")
        manager.connect()
        manager.orders().put("answer")
    client.recv(1)  # until the program has gone on and ended
    for descriptor in descriptors:
        os.close(descriptor)


def stream(client: socket.socket, seconds: float) -> None:
    """Send 80 kB/s."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.sendall(bytes(4000))
        time.sleep(0.05)


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
