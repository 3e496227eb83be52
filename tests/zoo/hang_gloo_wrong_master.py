"""MASTER_PORT is that of another program, which accepts connections and never answers: the rank waits for it in init_process_group."""

# /// zoo
# expect = "hang"
# causes = ["network-stall", "collective-mismatch"]
# culprit = ["127.0.0.1:"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# outside = ["serve", "sink", "port"]
# ///

from __future__ import annotations

import datetime
import os

import torch.distributed as dist

import zoo


def main():
    zoo.warm_up()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(zoo.port("sink")), WORLD_SIZE="2", RANK="1")
    zoo.say_hang()
    dist.init_process_group("gloo", timeout=datetime.timedelta(hours=2))


main()
