"""Where a stack frame is: which module, whose code, and which frames a forked process only inherited."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from unsloth_watch.model.evidence import Frame

_INSTALLED = re.compile(r".*/(?:site|dist)-packages/(.+)$")
_STANDARD = re.compile(r".*/lib(?:64)?/(?:python|pypy)\d[^/]*/(?!site-packages/|dist-packages/)(.+)$")
_FORKED = (("multiprocessing/popen_fork.py", "_launch"), ("multiprocess/popen_fork.py", "_launch"))
_LOOKS = (
    ("/torch/distributed/rendezvous.py", "_create_c10d_store"),
    ("/torch/distributed/elastic/rendezvous/static_tcp_rendezvous.py", "next_rendezvous"),
)
# Functions whose native code looks every 10 ms whether the others have come: one that is caught awake waits all the same.
_CHILD_STARTS = (("multiprocessing/forkserver.py", "_serve_one"), ("multiprocess/forkserver.py", "_serve_one"))


def module_of(file: str) -> str | None:
    """Return the dotted module of an installed or standard file: ``torch.utils.file_baton``; None for any other file."""
    match = _INSTALLED.match(file) or _STANDARD.match(file)
    if match is None:
        return "importlib" if file.startswith("<frozen importlib") else None
    path = match[1].removesuffix(".py").removesuffix("/__init__")
    return path.replace("/", ".")


def is_library(file: str) -> bool:
    """Whether a file belongs to an installed or standard library rather than to the user."""
    return file.startswith("<frozen ") or _INSTALLED.match(file) is not None or _STANDARD.match(file) is not None


def plain_name(function: str) -> str:
    """Return a function's own name: py-spy says ``FileBaton.wait`` for Python 3.11 and later, ``wait`` for those before."""
    return function.rpartition(".")[2]


def is_place(frame: Frame, file: str, function: str = "") -> bool:
    """Whether a frame is in a file, given by the end of its path, and in a function of it, if one is given."""
    return frame.file.endswith(file) and (not function or plain_name(frame.function) == function)


def own_frames(frames: Sequence[Frame]) -> Iterator[tuple[int, Frame]]:
    """Yield the Python frames that a thread itself entered, with their depth, innermost first.

    A forked process keeps its parent's frames below the fork: it never goes back there, and they say nothing about it.
    """
    for depth, frame in enumerate(frames):
        if frame.is_native:
            continue
        yield depth, frame
        if any(is_place(frame, *place) for place in (*_FORKED, *_CHILD_STARTS)):
            return


def is_forked(frames: Sequence[Frame]) -> bool:
    """Whether a stack shows that its process was forked by ``multiprocessing`` without an exec."""
    return any(is_place(frame, *place) for frame in frames for place in _FORKED)


def find_user_frame(frames: Sequence[Frame]) -> tuple[int, Frame] | None:
    """Return the innermost frame outside of all libraries, else the innermost Python frame, with its depth; None for none."""
    own = list(own_frames(frames))
    inner = ""
    for depth, frame in own:
        if not is_library(frame.file) and not is_proxy(frame, inner):
            return depth, frame
        inner = frame.file
    return own[0] if own else None


def is_looking(frames: Sequence[Frame]) -> bool:
    """Whether a thread is in native code that looks every few milliseconds for others, and does nothing else."""
    inner = next((frame for frame in frames if not frame.is_native), None)
    return inner is not None and any(is_place(inner, *place) for place in _LOOKS)


def is_proxy(frame: Frame, inner: str) -> bool:
    """Whether a frame is of a proxy of multiprocessing's managers, whose code is made of text: ``get (<string>:2)``.

    Args:
        frame: The frame.
        inner: File of the frame that it called.
    """
    return frame.file == "<string>" and inner.endswith("/managers.py")
