"""A few daemon threads that work through a list until a deadline; what is late is left behind, not waited for.

Not ``concurrent.futures``: its threads are joined when the interpreter ends, so one stuck read would keep the supervisor alive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from unsloth_watch.capture.deadline import Deadline

A = TypeVar("A")
T = TypeVar("T")

MAX_WORKERS = 4
"""Dumps at once: each py-spy takes a core for 10–150 ms, and the job may still be working."""


def spread(
    function: Callable[[A], T], items: Sequence[A], deadline: Deadline, workers: int = MAX_WORKERS
) -> list[T | Exception | None]:
    """Return ``function(item)`` for every item in order: its value, the exception it raised, or None where it is late."""
    waiting: queue.SimpleQueue[tuple[int, A]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, T | Exception]] = queue.SimpleQueue()
    for pair in enumerate(items):
        waiting.put(pair)

    def work() -> None:
        while not deadline.is_over:
            try:
                index, item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, function(item)))
            except Exception as error:  # handed to the caller, who says it in the evidence
                done.put((index, error))

    for number in range(min(workers, len(items))):
        try:
            threading.Thread(target=work, name=f"capture-{number}", daemon=True).start()
        except RuntimeError as error:  # the limit of processes is used up: fewer workers do, and none is said
            if number == 0:
                return [error] * len(items)
            break
    results: list[T | Exception | None] = [None] * len(items)
    for _ in items:
        try:
            index, value = done.get(timeout=deadline.left())
        except queue.Empty:
            break
        results[index] = value
    return results
