"""Who spoils every proof alone, whatever all others wait for."""

from __future__ import annotations

from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.scene import Doubt, Scene, is_harmless, is_helper
from unsloth_watch.waits.wait import Class, find_outer_loop

_SIGINT, _SIGTERM = 2, 15


def find_refutation(scene: Scene, root: ProcessRef) -> Doubt | None:
    """Return the doubt that `trace` comes to by some thread alone, be it among those who could wake the command or beside them.

    Only those who wake by the clock are asked: who runs may have been met at a bad moment, and all others rest by what is not here.

    Args:
        scene: Some of the job's processes, the command among them.
        root: The command. What it handles decides whether whoever lives may end its wait by a signal.
    """
    command = scene.processes.get(root.pid)
    if command is None or command.missing:
        return None
    handled = command.signals_caught or 0
    is_callable = bool((handled >> _SIGINT - 1 | handled >> _SIGTERM - 1) & 1)
    for key, wait in scene.waits.items():
        process, thread = scene.processes[key[0]], scene.threads[key]
        if wait.kind is not Class.TIMED or process.missing or is_helper(process) or is_harmless(key, scene):
            continue
        if find_outer_loop(thread) is not None or thread.is_pulse:
            continue
        is_command = process is command and thread.is_main
        if is_command or is_callable or not thread.frames:
            return Doubt(f"PID {key[0]} thread {thread.name}, of the same job: {wait.why}")
    return None
