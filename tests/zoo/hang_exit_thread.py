"""Training is over, a thread that is no daemon waits for more work."""

# /// zoo
# expect = "hang"
# causes = ["exit-stall"]
# culprit = ["upload_checkpoints", "_shutdown"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import queue
import threading

import zoo

checkpoints: queue.Queue[str] = queue.Queue()


def upload_checkpoints():
    while True:
        print("uploaded", checkpoints.get(), flush=True)


def main():
    uploader = threading.Thread(target=upload_checkpoints, name="uploader")
    zoo.warm_up(total=8)
    uploader.start()
    checkpoints.put("checkpoint-8")
    print("training done", flush=True)
    zoo.say_hang()


main()
