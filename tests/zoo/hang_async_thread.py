"""An executor's task that waits for an event."""

# /// zoo
# expect = "hang"
# causes = ["abandoned-wait", "async-stall"]
# culprit = ["wait_for_gpu"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import asyncio
import threading

import zoo

free = threading.Event()


def wait_for_gpu():
    zoo.say_hang()
    free.wait()


async def generate():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, wait_for_gpu)


def main():
    zoo.warm_up()
    asyncio.run(generate())


main()
