"""A thread appends a line to a log every second while the main thread reads from a silent server."""

# /// zoo
# expect = "hang"
# causes = ["network-stall"]
# culprit = ["127.0.0.1", "urlopen"]
# provable = false
# needs = []
# stdin = "null"
# cure = "shutdown"
# timeouts = "stall"
# outside = ["serve", "silent", "port"]
# ///

from __future__ import annotations

import json
import threading
import time
import urllib.request

import zoo


def beat(path):
    while True:
        with path.open("a") as file:
            file.write(json.dumps({"time": time.time(), "status": "running"}) + "\n")
        time.sleep(1)


def main():
    threading.Thread(target=beat, args=(zoo.directory() / "heartbeat.jsonl",), daemon=True).start()
    zoo.warm_up()
    url = f"http://127.0.0.1:{zoo.port('silent')}/model"
    zoo.say_hang()
    urllib.request.urlopen(url)


main()
