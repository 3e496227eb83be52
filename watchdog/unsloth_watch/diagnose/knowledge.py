"""Known frames: which place in which version of which library means what. Data in ``knowledge.toml``, checked when it is loaded."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from importlib import resources

import msgspec

from unsloth_watch.diagnose.frames import is_module, plain_name
from unsloth_watch.diagnose.remedies import REMEDIES
from unsloth_watch.model.evidence import Frame
from unsloth_watch.model.release import is_within


class KnownFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in a library where programs are known to wait.

    Attributes:
        id: Stable name.
        kind: Which rule it is for: ``compile-cache``, ``lock-poll``, ``lock-exists``, ``input``, ``network``; ``note`` for what is
            said beside whichever rule found one of its ``causes``.
        module: Dotted module; ``package.*`` for anything in a package.
        meaning: What the program does there, as the end of "it …".
        functions: Functions of the module; empty for all.
        library: Distribution whose version decides; empty where none does.
        versions: Versions of it that behave so, as clauses; empty for all.
        ends: ``never``, ``late`` (after some bounded time) or ``soon``.
        issue: Where it was reported.
        cache: Id of the cache that it works on, empty for none.
        remedies: Ids of remedies, least invasive first.
        upgrade: Requirement that mends it for good; empty for none.
        file: Name of the lock file that it waits for, for kind ``lock-exists``; empty where it has many.
        causes: Causes of the catalogue that it is said beside; for kind ``note``, and empty for all others.
    """

    id: str
    kind: str
    module: str
    meaning: str
    functions: tuple[str, ...] = ()
    library: str = ""
    versions: str = ""
    ends: str = "never"
    issue: str = ""
    cache: str = ""
    remedies: tuple[str, ...] = ()
    upgrade: str = ""
    file: str = ""
    causes: tuple[str, ...] = ()

    def matches(self, frame: Frame) -> bool:
        """Return whether a frame is this place."""
        return is_module(frame.file, self.module) and (not self.functions or plain_name(frame.function) in self.functions)

    def applies(self, version: str | None) -> bool | None:
        """Return whether an installed version behaves so; None if that is unknown."""
        return is_within(version, self.versions) if self.versions else True


class Knowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file."""

    frame: tuple[KnownFrame, ...]


KINDS = frozenset({"compile-cache", "lock-poll", "lock-exists", "input", "network", "note"})
"""What entries are for."""
CAUSES = frozenset(
    {
        *("compile-cache-unusable", "stale-lock-file", "lock-held-elsewhere", "thread-deadlock", "fork-deadlock", "lost-worker"),
        *("stuck-worker", "pipe-deadlock", "stdin-wait", "network-stall", "filesystem-stall", "process-stopped", "gpu-stall"),
        *("collective-mismatch", "exit-stall", "busy-loop", "poll-loop", "abandoned-wait", "import-deadlock", "async-stall"),
        "memory-thrash",
    }
)
"""The catalogue, without ``unknown``."""
ENDS = frozenset({"never", "late", "soon"})


def read_knowledge(raw: bytes) -> tuple[KnownFrame, ...]:
    """Return the known frames of a TOML text.

    Raises:
        ValueError: It is not what it should be; the message names the entry.
    """
    try:
        frames = msgspec.toml.decode(raw, type=Knowledge).frame
    except msgspec.MsgspecError as error:
        raise ValueError(_locate(raw, str(error))) from error
    for frame in frames:
        _check(frame)
    if len({frame.id for frame in frames}) != len(frames):
        msg = "two entries have the same id"
        raise ValueError(msg)
    return frames


def _locate(raw: bytes, message: str) -> str:
    """Return a decoder's message with the entry's id in place of its number, where the text can be read at all."""
    found = re.search(r"\$\.frame\[(\d+)\]", message)
    try:
        names = [entry.get("id", "without an id") for entry in msgspec.toml.decode(raw)["frame"]]
        return f"{names[int(found[1])]}: {message}" if found else message
    except (msgspec.MsgspecError, AttributeError, KeyError, IndexError, TypeError):
        return message


def _check(frame: KnownFrame) -> None:
    """Check what the types do not.

    Raises:
        ValueError: A value is none of its choices, or two of them do not fit.
    """
    choices = {"kind": ({frame.kind}, KINDS), "ends": ({frame.ends}, ENDS), "causes": (set(frame.causes), CAUSES)}
    for key, (values, allowed) in choices.items():
        for value in sorted(values - allowed):
            near = difflib.get_close_matches(value, allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it must be one of {', '.join(sorted(allowed))}"
            msg = f"{frame.id}: {key} {value!r} is not known{hint}"
            raise ValueError(msg)
    if (frame.kind == "note") is not bool(frame.causes):
        msg = f"{frame.id}: causes and kind 'note' belong together, and this entry has only one of them"
        raise ValueError(msg)
    if frame.versions and not frame.library:
        msg = f"{frame.id}: versions {frame.versions!r} need a library"
        raise ValueError(msg)
    for remedy in frame.remedies:
        if remedy not in REMEDIES:
            msg = f"{frame.id}: remedy {remedy!r} is not known; it must be one of {', '.join(sorted(REMEDIES))}"
            raise ValueError(msg)
    try:
        is_within("0", frame.versions)
    except ValueError as error:
        msg = f"{frame.id}: {error}"
        raise ValueError(msg) from error


def find_known(kind: str, frames: Sequence[Frame]) -> KnownFrame | None:
    """Return the known place of one kind that is innermost in a stack; None where there is none."""
    entries = known_frames(kind)
    return next((entry for frame in frames for entry in entries if entry.matches(frame)), None)


@functools.cache
def known_frames(kind: str) -> tuple[KnownFrame, ...]:
    """Return the known frames of one kind, from the file that is installed with this package."""
    raw = resources.files(__package__).joinpath("knowledge.toml").read_bytes()
    return tuple(frame for frame in read_knowledge(raw) if frame.kind == kind)
