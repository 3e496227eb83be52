"""asyncio waits for a process whose full pipe it does not read."""

# /// zoo
# expect = "hang"
# causes = ["pipe-deadlock", "async-stall", "stuck-worker"]
# culprit = ["convert", "main", "print"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import asyncio
import sys

import zoo


async def convert():
    tool = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "print('x' * 1000000)", stdout=asyncio.subprocess.PIPE)
    zoo.say_hang()
    await tool.wait()


def main():
    zoo.warm_up()
    asyncio.run(convert())


main()
