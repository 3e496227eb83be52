"""An asyncio client waits for a future whose message was dropped."""

# /// zoo
# expect = "hang"
# causes = ["async-stall", "abandoned-wait"]
# culprit = ["generate", "collect", "main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import asyncio

import zoo

answers: dict[int, asyncio.Future[str]] = {}


async def generate(number):
    answers[number] = asyncio.get_running_loop().create_future()
    return await answers[number]


async def deliver():
    for number in (0, 1, 2, 4):
        await asyncio.sleep(0.1)
        answers[number].set_result("text")
    zoo.say_hang()


async def collect():
    delivery = asyncio.create_task(deliver())
    print(await asyncio.gather(*(generate(number) for number in range(5))))
    await delivery


def main():
    zoo.warm_up()
    asyncio.run(collect())


main()
