"""Rank 1 is done and joins its child at exit; rank 0 waits in a collective."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch", "exit-stall"]
# culprit = ["prefetch"]
# provable = false  # gloo gives up by itself after half an hour
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import multiprocessing
import threading

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import zoo


def prefetch():
    threading.Event().wait()


def run(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dist.all_reduce(torch.ones(4))
    if rank == 1:
        multiprocessing.get_context("fork").Process(target=prefetch).start()
        zoo.say_hang()
        return
    dist.all_reduce(torch.ones(4))


def main():
    zoo.warm_up()
    mp.start_processes(run, args=(zoo.directory() / "store",), nprocs=2, start_method="fork", daemon=False)


main()
