"""An asyncio loop with nothing but a late call_later, beside an executor that sleeps."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "0.8*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import asyncio
import time

import zoo


async def collect():
    loop = asyncio.get_running_loop()
    late = loop.create_future()
    loop.call_later(0.4 * zoo.stall(), late.set_result, None)
    await late
    await loop.run_in_executor(None, time.sleep, 0.4 * zoo.stall())


def main():
    zoo.train(steps=3)
    asyncio.run(collect())
    zoo.train(steps=3, first=4)
    zoo.finish()


main()
