"""Rank 1 ended before it said its address; rank 0 asks the store for that."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["meet_rank_1", "address/1"]
# provable = false  # an outsider may still join the store
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import datetime

import torch.distributed as dist

import zoo


def meet_rank_1(store):
    zoo.say_hang()
    return store.get("address/1")


def main():
    zoo.warm_up()
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(hours=2))
    store.set("address/0", "127.0.0.1:4000")
    meet_rank_1(store)


main()
