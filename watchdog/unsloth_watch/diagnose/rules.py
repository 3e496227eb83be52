"""All rules, in one visible list. Their order decides between equals: the first is preferred."""

from __future__ import annotations

from unsloth_watch.diagnose.abandonedwait import AbandonedWait
from unsloth_watch.diagnose.asyncstall import AsyncStall
from unsloth_watch.diagnose.busyloop import BusyLoop
from unsloth_watch.diagnose.collective import CollectiveMismatch
from unsloth_watch.diagnose.compilecache import CompileCacheUnusable
from unsloth_watch.diagnose.exitstall import ExitStall
from unsloth_watch.diagnose.filesystemstall import FilesystemStall
from unsloth_watch.diagnose.forkdeadlock import ForkDeadlock
from unsloth_watch.diagnose.gpustall import GpuStall
from unsloth_watch.diagnose.heldinside import LockHeldInside
from unsloth_watch.diagnose.heldlock import LockHeldElsewhere
from unsloth_watch.diagnose.importdeadlock import ImportDeadlock
from unsloth_watch.diagnose.lostworker import LostWorker
from unsloth_watch.diagnose.memorythrash import MemoryThrash
from unsloth_watch.diagnose.nativeloop import NativePoll, NativeSpin
from unsloth_watch.diagnose.networkstall import NetworkStall
from unsloth_watch.diagnose.pipedeadlock import PipeDeadlock
from unsloth_watch.diagnose.pollloop import PollLoop
from unsloth_watch.diagnose.rule import Rule
from unsloth_watch.diagnose.shellpoll import ShellPoll
from unsloth_watch.diagnose.stalelock import StaleLockFile
from unsloth_watch.diagnose.stdinwait import StdinWait
from unsloth_watch.diagnose.stopped import ProcessStopped
from unsloth_watch.diagnose.stuckworker import StuckWorker
from unsloth_watch.diagnose.threaddeadlock import ThreadDeadlock

RULES: tuple[Rule, ...] = (
    ProcessStopped(),
    CompileCacheUnusable(),
    LockHeldElsewhere(),
    LockHeldInside(),
    StaleLockFile(),
    StdinWait(),
    FilesystemStall(),
    GpuStall(),
    NetworkStall(),
    MemoryThrash(),
    PipeDeadlock(),
    ForkDeadlock(),
    CollectiveMismatch(),
    ExitStall(),
    ImportDeadlock(),
    ThreadDeadlock(),
    LostWorker(),
    AsyncStall(),
    StuckWorker(),
    AbandonedWait(),
    BusyLoop(),
    PollLoop(),
    ShellPoll(),
    NativeSpin(),
    NativePoll(),
)
"""Every rule. A stopped process comes first: whatever else shows, nothing moves before it runs again."""
