"""All rules, in one visible list. Their order decides between equals: the first is preferred."""

from __future__ import annotations

from unsloth_watch.diagnose.busyloop import BusyLoop
from unsloth_watch.diagnose.compilecache import CompileCacheUnusable
from unsloth_watch.diagnose.heldlock import LockHeldElsewhere
from unsloth_watch.diagnose.rule import Rule
from unsloth_watch.diagnose.stalelock import StaleLockFile
from unsloth_watch.diagnose.stdinwait import StdinWait
from unsloth_watch.diagnose.stopped import ProcessStopped

RULES: tuple[Rule, ...] = (
    ProcessStopped(),
    CompileCacheUnusable(),
    LockHeldElsewhere(),
    StaleLockFile(),
    StdinWait(),
    BusyLoop(),
)
"""Every rule. A stopped process comes first: whatever else shows, nothing moves before it runs again."""
