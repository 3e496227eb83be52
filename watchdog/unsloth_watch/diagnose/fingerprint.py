"""Sixteen hex digits that are the same for the same hang, across runs, machines and edits of the user's script.

Hashed are the cause, the culprit's kind and normalised path or peer, and the stack from the frame that the rule named outwards.
What is inside of that frame is left out: a retry loop is caught now in its sleep and now in the import machinery. So are line
numbers (the user's script is edited between two attempts, and libraries differ by a comment), PIDs, addresses, native frames and
directories: a library's file is its module, the user's file its base name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from unsloth_watch.diagnose.frames import is_import_machinery, module_of, plain_name
from unsloth_watch.model.diagnosis import Culprit
from unsloth_watch.model.evidence import Frame

MAX_FRAMES = 12
"""Frames that count. Deeper ones are launchers and test runners, which differ between two ways to start the same program."""


def fingerprint(cause: str, culprit: Culprit | None, frames: Sequence[Frame]) -> str:
    """Return the fingerprint.

    Args:
        cause: Id of the catalogue.
        culprit: Where the waiting ends.
        frames: The stack from the anchoring frame outwards, innermost first.
    """
    parts = [cause]
    if culprit is not None:
        parts += [culprit.kind, normalise(culprit.path), normalise(culprit.peer)]
    parts += normalise_stack(frames)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def normalise_stack(frames: Sequence[Frame]) -> list[str]:
    """Return ``module:function`` of the Python frames, repetitions (recursion) taken out."""
    names: list[str] = []
    for frame in frames:
        if frame.is_native or is_import_machinery(frame):
            continue
        name = f"{module_of(frame.file) or frame.file.rpartition('/')[2]}:{plain_name(frame.function)}"
        if not names or names[-1] != name:
            names.append(name)
    return names[:MAX_FRAMES]


def normalise(text: str | None) -> str:
    """Return a path or peer with what differs between runs replaced: long hexadecimal words and all numbers."""
    return re.sub(r"\d+", "#", re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "#", text or ""))
