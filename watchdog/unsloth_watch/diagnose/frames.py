"""The vocabulary of rules for stacks: which module a frame belongs to, who is where, and whether it stays there.

A frame is known by the path of its file. Installed libraries lie below ``site-packages``; editable installs and source trees do
not, so a module is recognised by the end of its path: ``unsloth_zoo.compiler`` is ``…/unsloth_zoo/compiler.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from unsloth_watch.diagnose.case import Case
from unsloth_watch.model.evidence import Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.sample import Look
from unsloth_watch.waits.place import find_user_frame, is_library, module_of, plain_name

__all__ = [
    "Agreement", "Sighting", "compare_looks", "find_frames", "is_import_machinery", "is_library", "is_module", "module_of",
    "plain_name", "python_frames", "read_look",
]  # fmt: skip

_LOOK = re.compile(r"(?P<function>.*?) \((?P<file>[/<].*?|[^(]*?)(?::(?P<line>\d+))?\)$")
TOP_FRAMES = 6
"""Frames that a look holds at most; a shorter one is the whole stack."""


class Sighting(msgspec.Struct, frozen=True):
    """A frame that was found, and where.

    Attributes:
        process: Its process.
        thread: Its thread.
        depth: Its place in the stack, 0 for the innermost.
    """

    process: ProcessEvidence
    thread: ThreadEvidence
    depth: int

    @property
    def frame(self) -> Frame:
        """The frame."""
        return self.thread.frames[self.depth]

    @property
    def outward(self) -> tuple[Frame, ...]:
        """The frame and its callers."""
        return self.thread.frames[self.depth :]


def is_module(file: str, module: str) -> bool:
    """Whether a file is the given module, or lies in the given package when ``module`` ends with ``.*``."""
    path = module.removesuffix(".*").replace(".", "/")
    if module.endswith(".*"):
        return f"/{path}/" in file
    return file.endswith((f"/{path}.py", f"/{path}/__init__.py"))


def is_import_machinery(frame: Frame) -> bool:
    """Whether a frame is a step of an import: it says nothing about where a program is."""
    return (
        frame.file.startswith("<frozen importlib") or is_module(frame.file, "importlib.*") or frame.file.endswith("/posixpath.py")
    )


def find_frames(
    processes: Iterable[ProcessEvidence], module: str, functions: Collection[str] = (), *, main_only: bool = False
) -> Iterator[Sighting]:
    """Yield the innermost frame of each thread that lies in a module.

    Args:
        processes: Where to look.
        module: Dotted name; ``package.*`` for anything in a package.
        functions: Plain names that count; empty for all.
        main_only: Whether only main threads count.
    """
    for process in processes:
        for thread in process.threads:
            if main_only and not thread.is_main:
                continue
            for depth, frame in enumerate(thread.frames):
                if is_module(frame.file, module) and (not functions or plain_name(frame.function) in functions):
                    yield Sighting(process, thread, depth)
                    break


def python_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames of Python code, innermost first."""
    return tuple(frame for frame in frames if not frame.is_native)


def own_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code, else the innermost Python frame, else the innermost; None of none."""
    found = find_user_frame(frames)
    return found[1] if found is not None else next(iter(frames), None)


def read_look(look: Look) -> tuple[Frame, ...]:
    """Return the frames that a look shows; what cannot be read is left out."""
    frames = []
    for text in look.top:
        match = _LOOK.match(text)
        if match is not None:
            frames.append(Frame(match["function"], match["file"], int(match["line"] or 0)))
    return tuple(frames)


class Agreement(msgspec.Struct, frozen=True):
    """What looks say about a frame.

    Attributes:
        agree: Looks that show it.
        silent: Looks that could hide it: cut off at `TOP_FRAMES`.
        contradict: Looks whose whole stack does not hold it.
    """

    agree: int = 0
    silent: int = 0
    contradict: int = 0

    @property
    def is_steady(self) -> bool:
        """Whether the program was there more than once and never seen elsewhere."""
        return self.agree > 0 and self.contradict == 0


def compare_looks(case: Case, sighting: Sighting) -> Agreement:
    """Return how the looks at a process fit a frame of its main thread; looks show no other thread."""
    if not sighting.thread.is_main:
        return Agreement()
    counts = [0, 0, 0]
    for look in case.looks_of(sighting.process.ref):
        frames = read_look(look)
        if any(frame.function == sighting.frame.function and frame.file == sighting.frame.file for frame in frames):
            counts[0] += 1
        elif len(look.top) >= TOP_FRAMES or not frames:
            counts[1] += 1
        else:
            counts[2] += 1
    return Agreement(*counts)
