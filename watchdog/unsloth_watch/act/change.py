"""What a remedy changed, and how it is taken back."""

from __future__ import annotations

import msgspec

from unsloth_watch.errors import WatchError


class MendError(WatchError):
    """A remedy was refused or failed; nothing was changed by the part that failed."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change.

    Attributes:
        target: Variable or path.
        kind: ``environment``, ``stdin``, ``directory``, ``mode`` or ``quarantine``; of a living job also ``signal``, ``pipe``,
            ``drain`` or ``connection``.
        before: Value or path before; None for none.
        after: Value or path after; None for none.
        undo: How a person would take it back, as a command; empty where nothing is left to take back.
    """

    target: str
    kind: str
    before: str | None
    after: str | None
    undo: str
