"""A reward server of one thread asks its client for something, and the client waits for its answer."""

# /// zoo
# expect = "hang"
# causes = ["stuck-worker"]
# culprit = ["do_POST"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import http.server
import multiprocessing
import socket
import urllib.request

import zoo


class Reward(http.server.BaseHTTPRequestHandler):
    """Asks back before it answers."""

    client = 0

    def do_POST(self):
        zoo.say_hang()
        urllib.request.urlopen(f"http://127.0.0.1:{self.client}/weights").read()


def serve(ready, client):
    Reward.client = client
    server = http.server.HTTPServer(("127.0.0.1", 0), Reward)
    ready.send(server.server_address[1])
    server.serve_forever()


def main():
    zoo.warm_up()
    # Nobody ever accepts here: the main thread, which would, waits for the reward.
    own = socket.create_server(("127.0.0.1", 0))
    there, here = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    context.Process(target=serve, args=(here, own.getsockname()[1]), daemon=True).start()
    urllib.request.urlopen(f"http://127.0.0.1:{there.recv()}/reward", data=b"text").read()


main()
