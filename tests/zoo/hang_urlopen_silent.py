"""urllib without a timeout: the server accepts and never answers; the library's own retry would follow."""

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

import urllib.request

import zoo


def fetch(url):
    for attempt in range(2):
        try:
            return urllib.request.urlopen(url).read()
        except OSError as error:
            print(f"attempt {attempt} failed: {error}; using the cache", flush=True)
    return b"cached"


def main():
    zoo.warm_up()
    url = f"http://127.0.0.1:{zoo.port('silent')}/stats"
    zoo.say_hang()
    fetch(url)
    zoo.finish()


main()
