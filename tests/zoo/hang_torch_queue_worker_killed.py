"""A loading process is killed (as the OOM killer does) and the trainer waits for its next batch on a queue."""

# /// zoo
# expect = "hang"
# causes = ["lost-worker", "abandoned-wait"]
# culprit = ["load_batches", "main"]
# provable = true
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import signal

import torch
import torch.multiprocessing as mp

import zoo


def load_batches(queue):
    for index in range(100):
        queue.put([float(index)] * 4)
        if index == 5:
            zoo.say_hang()
            queue.close()
            queue.join_thread()
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    zoo.warm_up()
    context = mp.get_context("fork")
    queue = context.Queue()
    context.Process(target=load_batches, args=(queue,), daemon=True).start()
    for step in range(100):
        batch = torch.tensor(queue.get())
        print("batch", step, batch.mean().item(), flush=True)


main()
