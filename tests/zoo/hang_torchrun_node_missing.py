"""torchrun for two nodes, of which only this one comes."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["another machine"]
# provable = false
# needs = ["torch"]
# stdin = "null"
# cure = "none"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import socket
import sys

import zoo


def main():
    zoo.warm_up()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    zoo.say_hang()
    place = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-conf=join_timeout=3600"]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *place, __file__])


main()
