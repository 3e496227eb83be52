"""Two gloo ranks of which one is slow: the other waits in all_reduce for most of the time."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "3*S"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import zoo


def run(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for _ in range(4):
        if rank == 1:
            zoo.compute(0.75 * zoo.stall())
        dist.all_reduce(torch.ones(1000))
    dist.destroy_process_group()


def main():
    mp.start_processes(run, args=(zoo.directory() / "store",), nprocs=2, start_method="fork")
    zoo.finish()


main()
