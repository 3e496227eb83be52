"""Rank 1 has died after init_process_group; rank 0 waits for it in a barrier through the store."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["PID", "gather_metrics"]
# provable = false  # the store gives up by itself after two hours
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import datetime
import os
import signal
import socket

import torch.distributed as dist
import torch.multiprocessing as mp

import zoo


def gather_metrics(store):
    zoo.say_hang()
    store.barrier("metrics", 2, datetime.timedelta(hours=2))


def run(rank, port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    store = dist.distributed_c10d._get_default_store()
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    gather_metrics(store)


def main():
    zoo.warm_up()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = mp.get_context("fork")
    ranks = [context.Process(target=run, args=(rank, port)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()


main()
