"""Evaluation on the main rank only (transformers#31532): rank 0 gathers, rank 1 waits in the barrier after the epoch."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["evaluate", "rank 0", "rank 1", "all_gather", "barrier", "broadcast"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import zoo


def evaluate():
    """Wait for the other's predictions, which has none."""
    zoo.say_hang()
    predictions = torch.zeros(10)
    dist.recv(predictions, src=1, tag=7)


def run(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for step in range(10):
        gradient = torch.ones(1000)
        dist.all_reduce(gradient)
        if rank == 0:
            print(f"step {step}/10", flush=True)
    if rank == 0:
        evaluate()
    dist.broadcast(torch.zeros(10), src=0)


def main():
    zoo.warm_up()
    mp.start_processes(run, args=(zoo.directory() / "store",), nprocs=2, start_method="fork")


main()
