"""A manager of ``multiprocessing`` that nobody outside the job can speak to, told by the stack that its process was forked from.

``multiprocessing.Manager()`` makes a socket of a random name and takes the random key of its process: whoever was not told both is
no client. One that was made with an address, or by a class of its own, may have clients anywhere.
"""

from __future__ import annotations

from unsloth_watch.model.evidence import ThreadEvidence

_PACKAGES = ("multiprocessing", "multiprocess")


def is_private_manager(main: ThreadEvidence) -> bool:
    """Whether a process's main thread serves as a manager that ``multiprocessing.Manager()`` has forked.

    A process that was not forked has no such frames, and counts as one that anybody may speak to.
    """
    frames = [frame for frame in main.frames if not frame.is_native]
    names = [frame.function.rpartition(".")[2] for frame in frames]
    serving = next((depth for depth, name in enumerate(names) if name == "serve_forever"), None)
    started = next(
        (depth for depth, frame in enumerate(frames) if names[depth] == "start" and _is_of(frame.file, "managers")), None
    )
    if serving is None or started is None or started + 1 >= len(frames) or not _is_of(frames[serving].file, "managers"):
        return False
    return serving < started and names[started + 1] == "Manager" and _is_of(frames[started + 1].file, "context")


def _is_of(path: str, module: str) -> bool:
    return path.endswith(tuple(f"/{package}/{module}.py" for package in _PACKAGES))
