"""Known frames: which place in which version of which library means what. Data in ``knowledge.toml``, checked when it is loaded."""

from __future__ import annotations

import functools
from importlib import resources

import msgspec

from unsloth_watch.model.release import is_within


class KnownFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in a library where programs are known to wait.

    Attributes:
        id: Stable name.
        kind: Which rule it is for: ``compile-cache``, ``lock-poll``, ``lock-exists``, ``input``.
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

    def applies(self, version: str | None) -> bool | None:
        """Return whether an installed version behaves so; None if that is unknown."""
        return is_within(version, self.versions) if self.versions else True


class Knowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file."""

    frame: tuple[KnownFrame, ...]


KINDS = frozenset({"compile-cache", "lock-poll", "lock-exists", "input"})
ENDS = frozenset({"never", "late", "soon"})


def read_knowledge(raw: bytes) -> tuple[KnownFrame, ...]:
    """Return the known frames of a TOML text.

    Raises:
        ValueError: It is not what it should be; the message names the entry.
    """
    frames = msgspec.toml.decode(raw, type=Knowledge).frame
    for frame in frames:
        if frame.kind not in KINDS or frame.ends not in ENDS:
            msg = f"{frame.id}: kind {frame.kind!r} or ends {frame.ends!r} is not known"
            raise ValueError(msg)
        is_within(None, frame.versions)
    if len({frame.id for frame in frames}) != len(frames):
        msg = "two entries have the same id"
        raise ValueError(msg)
    return frames


@functools.cache
def known_frames(kind: str) -> tuple[KnownFrame, ...]:
    """Return the known frames of one kind, from the file that is installed with this package."""
    raw = resources.files(__package__).joinpath("knowledge.toml").read_bytes()
    return tuple(frame for frame in read_knowledge(raw) if frame.kind == kind)
