"""A repair of a living job: what would be done to which of its processes, as values; nothing here does it."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.process import ProcessRef


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a repair touches.

    Attributes:
        process: The process of the job through which it is reached; who has been replaced since is left alone.
        name: For people and for the check that it is still the same: ``pipe:[n]``, ``socket:[n]``, a path, a command.
        fd: Descriptor of that process; None where none is meant.
        writer: The process that is blocked on writing to a pipe; None for all else.
        is_drainable: Whether a pipe's reader cannot read from it before ``writer`` has ended, so that bytes may be kept meanwhile.
    """

    process: ProcessRef
    name: str
    fd: int | None = None
    writer: ProcessRef | None = None
    is_drainable: bool = False


class Repair(msgspec.Struct, frozen=True):
    """One kind of repair, with all that it is done to.

    Attributes:
        id: ``continue-process``, ``relieve-pipe``, ``shut-down-connection``, ``make-directory`` or ``release-lock-file``.
        why: One sentence: why it should help.
        targets: Everything of the one kind that holds the job up, never two kinds at a time.
    """

    id: str
    why: str
    targets: tuple[Target, ...]
