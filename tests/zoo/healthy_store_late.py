"""One rank asks the store for what the other one is still computing."""

# /// zoo
# expect = "healthy"
# lives_by = "cpu"
# seconds = "1.5*S + 5"
# needs = ["torch"]
# stdin = "null"
# ///

from __future__ import annotations

import datetime
import socket

import torch.distributed as dist
import torch.multiprocessing as mp

import zoo


def run(rank, port):
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timeout=datetime.timedelta(hours=2))
    if rank == 0:
        store.set("vocabulary", zoo.digest(1.5 * zoo.stall()))
        store.wait(["done"])
    else:
        store.get("vocabulary")
        store.set("done", "yes")


def main():
    zoo.train(steps=3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.start_processes(run, args=(port,), nprocs=2, start_method="fork")
    zoo.finish()


main()
