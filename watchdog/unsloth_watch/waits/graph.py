"""The waits-for graph: threads, and what stands between them (locks, pipes, sockets, files), with why and from where it is known.

An edge leads from who waits to who could end the wait. It is sure where the evidence names that one (a mutex's owner, a child's
PID, the other end of a pipe, the only thread whose source line holds the lock), and not sure where several may be meant.
"""

from __future__ import annotations

from unsloth_watch.model.evidence import Evidence, ProcessEvidence
from unsloth_watch.waits.edge import RESTING, Edge
from unsloth_watch.waits.ranks import find_ranks
from unsloth_watch.waits.scene import Key, Scene
from unsloth_watch.waits.stores import find_store, is_store
from unsloth_watch.waits.wakers import find_edges
from unsloth_watch.waits.want import Aim, Want, read_want


class Graph:
    """The graph of one capture.

    Args:
        survey: The capture.

    Attributes:
        scene: The capture, indexed.
        wants: What every thread wants.
        ranks: PID → rank.
        edges: Edges by waiter.
    """

    def __init__(self, survey: Evidence) -> None:
        self.scene = Scene(survey, is_gpu_idle=False)
        self.wants: dict[Key, Want] = {
            key: read_want(thread, self.scene.processes[key[0]]) for key, thread in self.scene.threads.items()
        }
        self._mark_stores()
        self.ranks = find_ranks(survey.processes)
        self.edges: dict[Key, tuple[Edge, ...]] = {key: tuple(find_edges(key, self)) for key in self.wants}

    def _mark_stores(self) -> None:
        """Make waits for the answer of a store what they are: waits for another rank."""
        if not any(map(is_store, self.scene.threads.values())):
            return
        for key, want in self.wants.items():
            if want.aim in (Aim.CHANNEL, Aim.TIMED, Aim.OUTSIDE) and find_store(key, self.scene) is not None:
                words = "waits for what another rank has to write into the store"
                self.wants[key] = Want(Aim.COLLECTIVE, words, "TCPStore", want.frame)

    def main_of(self, pid: int) -> Key | None:
        """Return the main thread of a process; another one where that has ended and left the process to the others."""
        process = self.scene.processes.get(pid)
        main = process.main_thread if process is not None else None
        if process is not None and main is not None and main.state in ("Z", "X"):
            main = next((thread for thread in process.threads if thread.state not in ("Z", "X")), main)
        return (pid, main.tid) if main is not None else None

    def children_of(self, pid: int) -> list[int]:
        """Return the children of a process, oldest first."""
        found = [process for process in self.scene.survey.processes if process.ppid == pid]
        return [process.ref.pid for process in sorted(found, key=lambda one: (one.ref.start_ticks, one.ref.pid))]

    def busy_of(self, pid: int, but: Key) -> list[Key]:
        """Return the threads of a process, other than one, that have something to do, and a Python stack where it runs Python."""
        is_python = self.scene.processes[pid].python_version is not None
        return [
            key
            for key in self.scene.threads_of(pid)
            if key != but and (self.scene.threads[key].frames or not is_python) and self.wants[key].aim not in RESTING
        ]

    def parent_of(self, pid: int) -> ProcessEvidence | None:
        """Return the parent of a process, where it is of the job."""
        return self.scene.processes.get(self.scene.processes[pid].ppid)

    def name(self, key: Key) -> str:
        """Return ``rank 1 (PID 12)``, ``PID 12`` or ``thread logger of PID 12``."""
        pid, thread = key[0], self.scene.threads[key]
        process = f"rank {self.ranks[pid]} (PID {pid})" if pid in self.ranks else f"PID {pid}"
        return process if thread.is_main else f"thread {thread.name} of {process}"
