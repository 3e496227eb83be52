"""Functions of Python and of well-known libraries in which a thread waits, and for what: data, checked against Python 3.10–3.13.

Of several such functions in one stack the outermost counts: ``Queue.get`` says more than the ``Condition.wait`` in it.
"""

from __future__ import annotations

MACHINES = "waits for the other machines to join"
"""Words of a launcher that has started no rank yet."""
FINISHED = "waits for the other machines to finish"
"""Words of a launcher whose own ranks have ended (exit_barrier_timeout, 300 s)."""
FUNCTIONS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("/threading.py", ("wait", "wait_for", "_wait"), "event", "waits for another thread's signal"),
    ("/threading.py", ("acquire",), "event", "waits for a place of a semaphore"),
    ("/threading.py", ("join", "_wait_for_tstate_lock", "_join_os_thread", "_shutdown"), "thread", "waits for a thread to end"),
    ("/queue.py", ("get", "put", "join"), "queue", "waits for a queue"),
    (
        "/concurrent/futures/_base.py",
        (
            "result", "exception", "wait", "as_completed", "result_iterator", "_result_or_cancel",
        ),
        "future",
        "waits for the result of a task",
    ),
    ("/concurrent/futures/thread.py", ("shutdown", "_python_exit"), "thread", "waits for the threads of a pool to end"),
    ("/concurrent/futures/process.py", ("shutdown", "_python_exit"), "workers", "waits for the workers of a pool to end"),
    ("/concurrent/futures/process.py", ("wait_result_broken_or_wakeup",), "workers", "waits for the workers of a pool"),
    (
        "/multiprocessing/pool.py",
        (
            "get", "wait", "next", "join", "_terminate_pool", "_help_stuff_finish",
        ),
        "workers",
        "waits for the workers of a pool",
    ),
    (
        "/multiprocess/pool.py",
        (
            "get", "wait", "next", "join", "_terminate_pool", "_help_stuff_finish",
        ),
        "workers",
        "waits for the workers of a pool",
    ),
    ("/multiprocessing/synchronize.py", ("__enter__", "acquire"), "shared lock", "waits for a lock that several processes share"),
    ("/multiprocess/synchronize.py", ("__enter__", "acquire"), "shared lock", "waits for a lock that several processes share"),
    ("/multiprocessing/synchronize.py", ("wait", "wait_for"), "event", "waits for another process's signal"),
    ("/multiprocess/synchronize.py", ("wait", "wait_for"), "event", "waits for another process's signal"),
    ("/multiprocessing/process.py", ("join",), "child", "waits for a child to end"),
    ("/multiprocess/process.py", ("join",), "child", "waits for a child to end"),
    ("/torch/multiprocessing/spawn.py", ("join", "spawn", "start_processes"), "workers", "waits for the processes that it started"),
    ("/torch/utils/data/dataloader.py", ("_try_get_data", "_get_data"), "workers", "waits for its data loader's workers"),
    (
        "/torch/_inductor/compile_worker/subproc_pool.py",
        (
            "shutdown", "quiesce",
        ),
        "workers",
        "waits for Inductor's compile workers to end",
    ),
    ("/datasets/utils/py_utils.py", ("iflatmap_unordered",), "workers", "waits for the workers of a map"),
    (
        "/subprocess.py",
        (
            "wait", "_wait", "_try_wait", "communicate", "_communicate", "run", "call", "check_output",
        ),
        "child",
        "waits for a command to end",
    ),
    ("/asyncio/base_events.py", ("_run_once", "run_forever", "run_until_complete"), "event loop", "waits for an event of its loop"),
    ("/signal.py", ("sigwait", "sigtimedwait", "sigwaitinfo", "pause"), "signal", "waits for a signal"),
    (
        "<frozen importlib._bootstrap>",
        (
            "acquire", "_lock_unlock_module",
        ),
        "import",
        "waits for a module that another thread imports",
    ),
    (
        "/torch/distributed/distributed_c10d.py",
        (
            "all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor", "all_to_all", "all_to_all_single",
            "barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "monitored_barrier", "recv", "reduce",
            "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send", "new_group",
            "init_process_group", "_store_based_barrier", "_new_process_group_helper", "all_reduce_coalesced", "recv_object_list",
            "send_object_list",
        ),
        "collective",
        "is in a collective",
    ),
    (
        "/torch/distributed/rendezvous.py",
        (
            "_create_c10d_store", "_tcp_rendezvous_handler", "_env_rendezvous_handler",
        ),
        "collective",
        "waits for the other ranks to appear",
    ),
    ("/torch/distributed/elastic/rendezvous/dynamic_rendezvous.py", ("next_rendezvous",), "collective", MACHINES),
    ("/torch/distributed/elastic/rendezvous/static_tcp_rendezvous.py", ("next_rendezvous",), "collective", MACHINES),
    ("/torch/distributed/elastic/rendezvous/etcd_rendezvous.py", ("next_rendezvous",), "collective", MACHINES),
    ("/torch/distributed/elastic/utils/store.py", ("get_all", "synchronize", "barrier"), "collective", MACHINES),
    ("/torch/distributed/elastic/agent/server/api.py", ("_assign_worker_ranks",), "collective", MACHINES),
    ("/torch/distributed/elastic/agent/server/api.py", ("_exit_barrier",), "collective", FINISHED),
    # Workers and helpers without a task.
    ("/concurrent/futures/thread.py", ("_worker",), "idle", "has no task"),
    ("/concurrent/futures/process.py", ("_process_worker",), "idle", "has no task"),
    ("/multiprocessing/pool.py", ("worker", "_handle_workers", "_handle_tasks", "_handle_results"), "idle", "has no task"),
    ("/multiprocess/pool.py", ("worker", "_handle_workers", "_handle_tasks", "_handle_results"), "idle", "has no task"),
    ("/multiprocessing/queues.py", ("_feed",), "idle", "has nothing to send"),
    ("/multiprocess/queues.py", ("_feed",), "idle", "has nothing to send"),
    ("/multiprocessing/forkserver.py", ("main",), "idle", "waits for orders to fork"),
    ("/multiprocessing/managers.py", ("serve_forever", "accepter", "serve_client"), "idle", "waits for requests"),
    ("/multiprocess/managers.py", ("serve_forever", "accepter", "serve_client"), "idle", "waits for requests"),
    ("/multiprocessing/resource_tracker.py", ("main",), "idle", "waits for orders"),
    ("/torch/utils/data/_utils/worker.py", ("_worker_loop",), "idle", "has no batch to load"),
    ("/torch/utils/data/_utils/pin_memory.py", ("_pin_memory_loop", "do_one_step"), "idle", "has nothing to pin"),
    ("/torch/_inductor/compile_worker/subproc_pool.py", ("_read_thread", "main"), "idle", "has nothing to compile"),
)  # fmt: skip
"""(end of the file's path, functions, value of ``want.Aim``, words)."""
TASKS: tuple[tuple[str, str], ...] = (
    ("/concurrent/futures/thread.py", "run"),
    ("/concurrent/futures/process.py", "_process_chunk"),
    ("/multiprocessing/pool.py", "mapstar"),
    ("/multiprocessing/pool.py", "starmapstar"),
    ("/multiprocess/pool.py", "mapstar"),
    ("/multiprocess/pool.py", "starmapstar"),
    ("/torch/utils/data/_utils/fetch.py", "fetch"),
)
"""Functions in which a worker has a task, so that it is not idle, whatever lies above."""
BETWEEN = (
    "/multiprocessing/", "/multiprocess/", "/concurrent/futures/", "/asyncio/", "/torch/multiprocessing/", "/torch/distributed/",
    "/torch/utils/data/", "/torch/_inductor/compile_worker/", "/threading.py", "/queue.py", "/selectors.py", "/socket.py",
    "/subprocess.py", "/signal.py", "<frozen importlib",
)  # fmt: skip
"""Modules whose other functions may lie between a known function and the wait: they only lead there."""
