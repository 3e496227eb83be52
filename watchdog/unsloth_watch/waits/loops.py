"""Loops of well-known libraries that wake by the clock, find nothing, and go back to sleep for ever: data, seen in real programs.

Only such loops may stand in a proof: any other timed wait may be followed by work. ``MONITOR`` loops look at something and never
wake anybody; ``POLL`` loops wait for their descriptors, ``CHILDREN`` loops for their children, as if they had no timeout.
"""

from __future__ import annotations

import enum


class Loop(str, enum.Enum):
    """What a known loop waits for."""

    MONITOR = "monitor"
    POLL = "poll"
    CHILDREN = "children"
    DEVICE = "device"
    """It polls a GPU: harmless only while the device is known to be idle."""


LOOPS: tuple[tuple[str, str, Loop], ...] = (
    # tqdm: looks every 10 s whether a bar needs a redraw.
    ("tqdm/_monitor.py", "run", Loop.MONITOR),
    # wandb: system metrics and the stream to its own service process.
    ("wandb/sdk/wandb_run.py", "check_status", Loop.MONITOR),
    ("wandb/sdk/wandb_run.py", "check_network_status", Loop.MONITOR),
    ("wandb/sdk/wandb_run.py", "check_stop_status", Loop.MONITOR),
    ("wandb/sdk/wandb_run.py", "check_internal_messages", Loop.MONITOR),
    # multiprocessing: serves descriptors to other processes of the job when asked (torch sends tensors so), and reaps at exit.
    ("multiprocessing/resource_sharer.py", "_serve", Loop.MONITOR),
    ("multiprocessing/resource_tracker.py", "main", Loop.MONITOR),
    ("multiprocess/resource_tracker.py", "main", Loop.MONITOR),
    ("multiprocess/resource_sharer.py", "_serve", Loop.MONITOR),
    # torch DataLoader: get with a timeout of 5 s, then a look whether the workers live, and again (torch 2.0–2.13).
    ("torch/utils/data/dataloader.py", "_try_get_data", Loop.POLL),
    ("torch/utils/data/_utils/worker.py", "_worker_loop", Loop.POLL),
    ("torch/utils/data/_utils/pin_memory.py", "do_one_step", Loop.POLL),
    # datasets and torchrun: poll their worker processes several times a second.
    ("datasets/utils/py_utils.py", "iflatmap_unordered", Loop.CHILDREN),
    ("torch/distributed/elastic/agent/server/api.py", "_invoke_run", Loop.CHILDREN),
    ("accelerate/utils/launch.py", "launch", Loop.CHILDREN),
)
"""(end of the file's path, function, what it waits for)."""

DEVICE_THREADS = ("cuda-EvtHandlr", "cuda-EvtHandle", "nv_queue", "pt_nccl_watchdg", "pt_nccl_heartbt")
"""Kernel names of threads that poll a GPU's events, every 100 ms."""
IDLE_THREADS = ("jemalloc_bg_thd", "grpc_global_tim")
"""Kernel names of native threads that keep a library's house and never wake the program."""
