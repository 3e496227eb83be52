"""Continues a stopped process, unless it would be stopped again at once or somebody holds it on purpose."""

from __future__ import annotations

import signal

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.guardian import read_stat, read_whole, send_signal
from unsloth_watch.model.process import ProcessRef


def continue_process(ref: ProcessRef, name: str) -> Change:
    """Send SIGCONT to a stopped process.

    Raises:
        MendError: It is not stopped any more, a tracer holds it, it belongs to another user, or it is in the background of a
            terminal: SIGTTIN or SIGTTOU stopped it, and would again.
    """
    fields = read_stat(ref.pid)
    if fields is None or fields[0] != b"T":
        raise MendError(f"{name} is no longer stopped")
    tracer = _read_tracer(ref.pid)
    if tracer != 0:
        raise MendError(f"{name} stays stopped: {f'PID {tracer} traces it' if tracer else 'whether it is traced is not known'}")
    # Fields 5, 7 and 8 of proc(5): process group, terminal, and the group in that terminal's foreground.
    group, terminal, foreground = (int(fields[index]) for index in (2, 4, 5))
    if terminal != 0 and foreground > 0 and group != foreground:
        raise MendError(f"{name} stays stopped: it is in the background of its terminal, which would stop it again (SIGTTIN)")
    try:
        if not send_signal(ref.pid, ref.start_ticks, signal.SIGCONT):
            raise MendError(f"{name} has ended")
    except PermissionError as error:
        raise MendError(f"{name} stays stopped: it belongs to another user") from error
    return Change(name, "signal", "stopped", "running", f"kill -STOP {ref.pid}")


def _read_tracer(pid: int) -> int | None:
    for line in (read_whole(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"TracerPid:"):
            return int(line.split()[1])
    return None
