"""Whether an interpreter is ending: what it waits for then is teardown, after the work."""

from __future__ import annotations

from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.place import is_place, own_frames

_EXIT_FUNCTIONS = (
    ("/threading.py", "_shutdown"),
    ("/multiprocessing/util.py", "_exit_function"),
    ("/multiprocess/util.py", "_exit_function"),
)


def is_exiting(thread: ThreadEvidence, process: ProcessEvidence) -> bool:
    """Whether an interpreter is ending: its main thread is in a known function of the exit, or no longer in any module's code.

    ``atexit`` calls its hooks from C: their stack has no ``<module>`` frame below.
    """
    own = [frame for _, frame in own_frames(thread.frames)]
    if any(is_place(frame, *place) for frame in own for place in _EXIT_FUNCTIONS):
        return True
    is_whole = process.stack_method in ("native", "plain")
    has_code = any(_is_outermost(frame.function, frame.file) for frame in thread.frames)
    return bool(thread.is_main and own and is_whole and not has_code)


def _is_outermost(function: str, file: str) -> bool:
    return function == "<module>" or file.startswith("<frozen runpy") or file.endswith("/runpy.py")
