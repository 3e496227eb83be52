"""torch.distributed is told that there are three ranks, and two are started: both wait for the third in init_process_group."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["rank 2"]
# provable = false  # a third rank may still come
# needs = ["torch"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import socket
import subprocess
import sys

import zoo


def rank():
    import datetime

    import torch.distributed as dist

    if os.environ["RANK"] == "1":
        zoo.say_hang()
    dist.init_process_group("gloo", timeout=datetime.timedelta(hours=2))


def main():
    zoo.warm_up()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    ranks = [subprocess.Popen([sys.executable, __file__], env={**place, "RANK": str(number)}) for number in range(2)]
    for one in ranks:
        one.wait()


if "RANK" in os.environ:
    rank()
else:
    main()
