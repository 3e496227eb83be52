"""The chain of blame: from the command's main thread along the graph to where the waiting ends."""

from __future__ import annotations

import msgspec

from unsloth_watch.waits.edge import RESTING, Edge
from unsloth_watch.waits.graph import Graph
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.want import Aim


class Chain(msgspec.Struct, frozen=True):
    """Who waits for whom, from the start to the end.

    Attributes:
        keys: Threads in order; the last one is where the waiting ends.
        edges: What leads from each to the next.
        cycle: The threads that wait in a circle, from the first that is met again; empty for none.
        closing: The edge that closes the circle.
    """

    keys: tuple[Key, ...]
    edges: tuple[Edge, ...]
    cycle: tuple[Key, ...] = ()
    closing: Edge | None = None

    @property
    def end(self) -> Key:
        """Where the waiting ends."""
        return self.keys[-1]

    @property
    def is_sure(self) -> bool:
        """Whether every step is named by the evidence."""
        return all(edge.is_sure for edge in (*self.edges, *([self.closing] if self.closing else [])))


_LAUNCHERS = (
    "/torch/distributed/elastic/",
    "/torch/distributed/run.py",
    "/torch/distributed/launcher/",
    "/accelerate/commands/",
    "/deepspeed/launcher/",
)
_DEPTH = 64
"""Longest chain that is followed: deeper ones are a fault of the graph."""


def follow(graph: Graph, start: Key) -> Chain:
    """Return the chain from a thread: sure steps first, then to whom the least can be expected of.

    Where a step leads back to a thread of the chain, it is a circle if it is sure; an unsure one only between locks, where nothing
    else is left.
    """
    keys: list[Key] = [start]
    edges: list[Edge] = []
    while len(keys) < _DEPTH:
        found = [edge for edge in graph.edges[keys[-1]] if edge.waker is not None]
        for edge in sorted(found, key=lambda edge: _rank(edge, graph)):
            if edge.waker in keys and edge.is_sure:
                return Chain(tuple(keys), tuple(edges), tuple(keys[keys.index(edge.waker) :]), edge)
        fresh = [edge for edge in found if edge.waker not in keys]
        if not fresh:
            closing = next((edge for edge in found if graph.wants[keys[-1]].aim is Aim.LOCK), None)
            if closing is not None and closing.waker is not None:
                return Chain(tuple(keys), tuple(edges), tuple(keys[keys.index(closing.waker) :]), closing)
            break
        step = min(fresh, key=lambda edge: _rank(edge, graph))
        if step.waker is None:
            break
        keys.append(step.waker)
        edges.append(step)
    return Chain(tuple(keys), tuple(edges))


def find_start(graph: Graph, root: int) -> Key | None:
    """Return the main thread of the job proper; None where no thread of the command was read.

    Shells and launchers in front are stepped over: that they wait for their children is their work. Of several children the one is
    taken that runs Python, and of several ranks one that waits for the others.

    Args:
        graph: The graph.
        root: PID of the command.
    """
    start = graph.main_of(root)
    seen = {start}
    while start is not None and _is_launcher(start, graph):
        children = [main for pid in graph.children_of(start[0]) if (main := graph.main_of(pid)) is not None]
        living = [main for main in children if graph.wants[main].aim is not Aim.ENDED and main not in seen]
        if not living:
            break
        start = min(living, key=lambda main: _order_start(main, graph))
        seen.add(start)
    return start


def _is_launcher(key: Key, graph: Graph) -> bool:
    thread, process = graph.scene.threads[key], graph.scene.processes[key[0]]
    if not thread.frames:
        return process.python_version is None and graph.wants[key].aim is Aim.CHILD
    return any(part in frame.file for frame in thread.frames for part in _LAUNCHERS)


def _order_start(key: Key, graph: Graph) -> tuple[bool, bool, bool, int]:
    aim = graph.wants[key].aim
    return (not graph.scene.threads[key].frames, aim is not Aim.COLLECTIVE, aim in RESTING, key[0])


def _rank(edge: Edge, graph: Graph) -> tuple[bool, int, int]:
    """Order the steps: sure ones, then the stopped and the dead, then those that wait for something, the resting last."""
    assert edge.waker is not None
    aim = graph.wants[edge.waker].aim
    order = 0 if aim is Aim.STOPPED else 2 if aim is Aim.ENDED else 3 if aim in RESTING or aim is Aim.RUNNING else 1
    return (not edge.is_sure, order, edge.waker[1])
