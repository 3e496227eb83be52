"""One of two ranks was never started; the other waits for it in init_process_group."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch", "network-stall", "abandoned-wait"]
# culprit = ["init_process_group", "rendezvous", "store"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import datetime

import torch.distributed as dist

import zoo


def main():
    zoo.warm_up()
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    zoo.say_hang()
    dist.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=datetime.timedelta(hours=2))


main()
