"""The parent waits for ever so long; its two workers compute in silence."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = []
# stdin = "null"
# ///

from __future__ import annotations

import multiprocessing

import zoo


def work(seconds):
    zoo.digest(seconds)


def main():
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(3 * zoo.stall(),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    zoo.finish()


main()
