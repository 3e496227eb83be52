"""Loops of well-known libraries that wake by the clock, find nothing, and go back to sleep for ever: data, seen in real programs.

Only such loops may stand in a proof: any other timed wait may be followed by work. ``MONITOR`` loops look at something, or serve
whoever asks them, and never wake anybody by themselves; ``POLL`` and ``WORKER`` loops wait for their descriptors or their process's
memory, ``CHILDREN`` loops for their children, as if they had no timeout.
"""

from __future__ import annotations

import enum
import re


class Loop(str, enum.Enum):
    """What a known loop waits for."""

    MONITOR = "monitor"
    SERVER = "server"
    """It serves whoever has a manager's key, perhaps on another machine: harmless only where a CHILDREN loop keeps the manager.
    ``manager`` says which other ones are the job's own."""
    POLL = "poll"
    WORKER = "worker"
    """As POLL, with a time-out of the library's own that always leads back: nobody may choose another."""
    CHILDREN = "children"
    DEVICE = "device"
    """It polls a GPU: harmless only while the device is known to be idle."""


POLLING = (Loop.POLL, Loop.WORKER)
"""Loops that wait for their descriptors or their process's memory."""

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
    # A manager's process: its accepting thread, its servants, and its main thread, which looks once a second whether it shall end.
    ("multiprocessing/managers.py", "accepter", Loop.SERVER),
    ("multiprocessing/managers.py", "serve_client", Loop.SERVER),
    ("multiprocessing/managers.py", "serve_forever", Loop.SERVER),
    ("multiprocess/managers.py", "accepter", Loop.SERVER),
    ("multiprocess/managers.py", "serve_client", Loop.SERVER),
    ("multiprocess/managers.py", "serve_forever", Loop.SERVER),
    # torch: an Inductor worker looks every minute whether its parent lives.
    ("torch/_inductor/compile_worker/utils.py", "run", Loop.MONITOR),
    # torch DataLoader: get with a timeout of 5 s, then a look whether the workers live, and again (torch 2.0–2.13).
    ("torch/utils/data/dataloader.py", "_try_get_data", Loop.POLL),
    ("torch/utils/data/_utils/worker.py", "_worker_loop", Loop.WORKER),
    ("torch/utils/data/_utils/pin_memory.py", "do_one_step", Loop.WORKER),
    # datasets and torchrun: poll their worker processes several times a second.
    ("datasets/utils/py_utils.py", "iflatmap_unordered", Loop.CHILDREN),
    ("torch/distributed/elastic/agent/server/api.py", "_invoke_run", Loop.CHILDREN),
)
"""(end of the file's path, function, what it waits for)."""

WAITING_FILES = (
    *("/threading.py", "/queue.py", "/selectors.py", "/socket.py", "/subprocess.py", "/asyncio/locks.py"),
    *("/multiprocessing/connection.py", "/multiprocessing/queues.py", "/multiprocessing/synchronize.py"),
    *("/multiprocess/connection.py", "/multiprocess/queues.py", "/multiprocess/synchronize.py"),
    *("/multiprocessing/managers.py", "/multiprocess/managers.py", "/multiprocessing/pool.py", "/multiprocess/pool.py"),
    *("/multiprocessing/popen_fork.py", "/multiprocess/popen_fork.py", "/multiprocessing/util.py", "/multiprocess/util.py"),
    "<string>",  # the methods of a manager's proxies are made at run time
)
"""Files of the frames that may lie between a known loop and the system call: they only wait. Anything else there (a bar being
drawn, a metric being read) may hold a lock, and then the loop is no longer harmless."""

DEVICE_THREADS = ("cuda-EvtHandlr", "cuda-EvtHandle", "nv_queue", "pt_nccl_watchdg", "pt_nccl_heartbt")
"""Kernel names of threads that poll a GPU's events, every 100 ms."""
CUDA_THREAD = re.compile(r"cuda[0-9a-f]{11}")
"""Kernel name of a thread that CUDA's driver keeps in every process, ``cuda00001400006``: it polls its own eventfd and pipe,
and a listening socket by which another process may ask for memory of this one; it wakes nobody of its own (driver 580)."""
IDLE_THREADS = ("jemalloc_bg_thd",)
"""Kernel names of native threads that keep a library's house and never wake the program."""
HELPERS = ("wandb-core", "wandb-service", "gpu_stats", "nvidia-smi", "py-spy")
"""Programs beside a job that measure and report, and neither signal nor feed it unless somebody waits for them."""
