"""accelerate launch with two ranks: only the main one saves and waits for everyone, while the other one waits for its next shard."""

# /// zoo
# expect = "hang"
# causes = ["collective-mismatch"]
# culprit = ["next_shard"]
# provable = false  # gloo gives up by itself after half an hour
# needs = ["torch", "accelerate"]
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///

from __future__ import annotations

import os
import sys
import threading

import zoo


def next_shard():
    zoo.say_hang()
    threading.Event().wait()


def rank():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.wait_for_everyone()
    next_shard()


def main():
    zoo.warm_up()
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.execv(sys.executable, [sys.executable, *launch, "--dynamo_backend=no", "--main_process_port=0", __file__])


if "RANK" in os.environ:
    rank()
elif "ACCELERATE_USE_CPU" not in os.environ:  # never twice, whatever the launcher does
    main()
