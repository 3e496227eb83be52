"""Stores of ``torch.distributed``: a rank asks one for what another rank has to write, and the answer comes when that has come.

The server of a TCPStore is a thread of native code in the process of rank 0, or of torchrun. A client waits for bytes of a
connection like any other; who waits for whom is known by that thread, whose set of descriptors has the other end.
"""

from __future__ import annotations

from unsloth_watch.model.evidence import ThreadEvidence
from unsloth_watch.waits.ends import find_peer
from unsloth_watch.waits.scene import Key, Scene

STORE_THREADS = ("pt_tcpstore", "pt_tcpstore_uv")
"""Names of the serving thread: TCPStoreBackend.cpp and TCPStoreLibUvBackend.cpp of PyTorch."""


def find_store(key: Key, scene: Scene) -> Key | None:
    """Return the serving thread of the store that a thread waits for; None where it waits for none of this job."""
    thread, process = scene.threads[key], scene.processes[key[0]]
    if not thread.frames or is_store(thread):
        return None
    for descriptor in process.descriptors or ():
        if descriptor.fd not in thread.wait_fds or descriptor.connection is None:
            continue
        peer = find_peer(descriptor.connection, scene)
        for other, one in scene.threads.items() if peer is not None else ():
            if is_store(one) and peer in scene.waits[other].targets:
                return other
    return None


def is_store(thread: ThreadEvidence) -> bool:
    """Whether a thread serves a store."""
    return thread.name in STORE_THREADS
