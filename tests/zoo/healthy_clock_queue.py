"""A producing process sends a batch only now and then; the trainer waits for its queue without a timeout."""

# /// zoo
# expect = "healthy"
# lives_by = "patience"
# seconds = "1.2*S + 3"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing
import time

import zoo


def produce(queue):
    for batch in range(3):
        time.sleep(0.4 * zoo.stall())
        queue.put(batch)


def main():
    zoo.train(steps=3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    producer = context.Process(target=produce, args=(queue,))
    producer.start()
    for batch in range(3):
        assert queue.get() == batch
        print(f"batch {batch + 1}/3", flush=True)
    producer.join()
    zoo.finish()


main()
