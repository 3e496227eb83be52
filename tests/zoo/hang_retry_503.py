"""A client retries with backoff against a server that always answers 503."""

# /// zoo
# expect = "hang"
# causes = ["poll-loop", "network-stall"]
# culprit = ["push_to_hub", "503"]
# provable = false
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# outside = ["serve", "busy", "port"]
# ///

from __future__ import annotations

import time
import urllib.error
import urllib.request

import zoo


def push_to_hub(url):
    attempt = 0
    while True:
        try:
            return urllib.request.urlopen(url, timeout=10).read()
        except urllib.error.URLError as error:
            attempt += 1
            print(f"upload failed ({error}), retry {attempt}", flush=True)
            time.sleep(min(0.25 * 2**attempt, 4))


def main():
    zoo.warm_up()
    port = zoo.port("busy")
    zoo.say_hang()
    push_to_hub(f"http://127.0.0.1:{port}/upload")


main()
