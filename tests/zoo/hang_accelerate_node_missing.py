"""accelerate launch on the first of two machines: the second one never comes."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["another machine"]
# provable = false  # the other machine may still come
# needs = ["torch", "accelerate"]
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
    os.environ["ZOO_LAUNCHED"] = "1"
    place = ["--num_machines=2", "--machine_rank=0", "--main_process_ip=127.0.0.1", f"--main_process_port={port}"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--mixed_precision=no", *place]
    os.execv(sys.executable, [sys.executable, *launch, "--dynamo_backend=no", __file__])


if "ZOO_LAUNCHED" not in os.environ:
    main()
