"""Client and server of one job wait for each other's next message."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker", "network-stall"]
# culprit = ["generate", "serve"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import socket

import zoo


def serve(listener):
    client, _ = listener.accept()
    # No recv(MSG_WAITALL) here: a tracer's stop ends it early with what there is, and the look would cure the hang.
    with client.makefile("rb") as stream:
        while length := stream.read(4):
            client.sendall(stream.read(int(length)))


def generate(server, prompt):
    # The header counts the newline that is not sent.
    server.sendall(b"%04d" % (len(prompt) + 1) + prompt)
    return server.recv(4096)


def main():
    zoo.warm_up()
    listener = socket.create_server(("127.0.0.1", 0))
    multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True).start()
    with socket.create_connection(listener.getsockname()) as server:
        zoo.say_hang()
        print(generate(server, b"Once upon a time"))


main()
