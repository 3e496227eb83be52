"""Two asyncio tasks take two locks in opposite order."""

# /// zoo
# expect = "hang"
# causes = ["async-stall", "thread-deadlock"]
# culprit = ["save", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import asyncio

import zoo


async def save(model, disk):
    async with model:
        await asyncio.sleep(0.1)
        zoo.say_hang()
        async with disk:
            print("saved")


async def log(model, disk):
    async with disk:
        await asyncio.sleep(0.05)
        async with model:
            print("logged")


async def both():
    model, disk = asyncio.Lock(), asyncio.Lock()
    await asyncio.gather(save(model, disk), log(model, disk))


def main():
    zoo.warm_up()
    asyncio.run(both())


main()
