"""Two gloo ranks: one waits for its next shard, the other in all_reduce."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch", "abandoned-wait", "stuck-worker"]
# culprit = ["next_shard"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import threading

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import zoo

shard_is_ready = threading.Event()


def next_shard():
    zoo.say_hang()
    shard_is_ready.wait()


def run(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for step in range(50):
        if step == 20 and rank == 1:
            next_shard()
        gradient = torch.ones(1000)
        dist.all_reduce(gradient)
        if rank == 0:
            print(f"step {step}/50", flush=True)


def main():
    zoo.warm_up()
    mp.start_processes(run, args=(zoo.directory() / "store",), nprocs=2, start_method="fork")


main()
