"""requests without a timeout: the server stalls in mid-file."""

# /// zoo
# expect = "hang"
# causes = ["network-stall"]
# culprit = ["127.0.0.1", "fetch"]
# provable = false
# needs = ["requests"]
# stdin = "null"
# cure = "shutdown"
# timeouts = "stall"
# outside = ["serve", "half", "port"]
# ///

from __future__ import annotations

import requests

import zoo


def fetch(url):
    total = 0
    with requests.get(url, stream=True) as response:
        for piece in response.iter_content(1 << 20):
            total += len(piece)
            if total == 3 << 20:
                zoo.say_hang()
    return total


def main():
    zoo.warm_up()
    print(fetch(f"http://127.0.0.1:{zoo.port('half')}/train.jsonl"))


main()
