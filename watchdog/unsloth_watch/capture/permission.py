"""Whether stacks can be had at all, asked at launch with a dummy instead of during the hang."""

from __future__ import annotations

import os
import subprocess
import sys

from unsloth_watch.capture.command import own_child
from unsloth_watch.capture.deadline import Deadline, DeadlineError, within
from unsloth_watch.capture.dump import Dump, DumpFailure, Failure
from unsloth_watch.capture.pyspy import dump
from unsloth_watch.capture.waits import parse_status, read_file

_CAP_SYS_PTRACE = 19
_DUMMY = "import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()"
_CONSENTING = "import ctypes, os; ctypes.CDLL(None).prctl(0x59616d61, os.getppid(), 0, 0, 0); " + _DUMMY
# PR_SET_PTRACER, as the launcher does for the command: under Yama's scope 1 py-spy is the command's sibling and has no other right


def check_trace(deadline_s: float = 5.0, *, binary: str | None = None) -> str | None:
    """Return what will keep py-spy from reading stacks and the remedy, or None when it can read them.

    A child that only waits is dumped in the same way as the job would be: about 45 ms of work, so call it from a thread at launch.

    Args:
        deadline_s: Seconds for all of it.
        binary: py-spy; None to look for it.
    """
    deadline = Deadline(deadline_s)
    answer = _dump_dummy(_DUMMY, deadline, binary)
    if isinstance(answer, Dump):
        return None
    if answer.kind is not Failure.NO_PERMISSION:
        return f"stacks cannot be read: {answer.message}"
    has_consented = isinstance(_dump_dummy(_CONSENTING, deadline, binary), Dump)
    return explain_refusal(read_scope(), has_capability(), is_in_container(), has_consented=has_consented)


def _dump_dummy(program: str, deadline: Deadline, binary: str | None) -> Dump | DumpFailure:
    argv = [sys.executable, "-I", "-S", "-c", program]
    try:
        with own_child(
            lambda: subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        ) as child:
            assert child.stdout is not None
            try:
                within(deadline.left(), child.stdout.readline)
            except DeadlineError:
                return DumpFailure(Failure.LATE, f"{sys.executable} did not start in time")
            return dump(child.pid, "plain", deadline.left(), binary=binary)
    except OSError as error:
        return DumpFailure(Failure.OTHER, f"a test process cannot be started ({error.strerror})")


def read_scope() -> int | None:
    """Return ``kernel.yama.ptrace_scope``, or None where the kernel has no Yama."""
    try:
        return int(read_file("/proc/sys/kernel/yama/ptrace_scope"))
    except (OSError, ValueError):
        return None


def has_capability() -> bool | None:
    """Return whether this process has CAP_SYS_PTRACE."""
    try:
        return bool(int(parse_status(read_file("/proc/self/status"))["CapEff"], 16) >> _CAP_SYS_PTRACE & 1)
    except (OSError, KeyError, ValueError):
        return None


def is_in_container() -> bool:
    """Return whether this looks like a container, for the words of a remedy only."""
    return any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")) or "KUBERNETES_SERVICE_HOST" in os.environ


def suggest_access() -> str:
    """Return what to do where another process may not be read: Yama, the capability, or the container's own switch."""
    return explain_refusal(read_scope(), has_capability(), is_in_container(), has_consented=False)


def explain_refusal(scope: int | None, capability: bool | None, is_container: bool, *, has_consented: bool) -> str:
    """Return why tracing is refused and what to do.

    Args:
        scope: ``kernel.yama.ptrace_scope``; None without Yama.
        capability: Whether we have CAP_SYS_PTRACE; None if unknown.
        is_container: Whether to give a container's remedy.
        has_consented: Whether a process that allowed it by ``PR_SET_PTRACER`` could be traced, as the launched command does.
    """
    if scope == 3:
        return "stacks cannot be read: kernel.yama.ptrace_scope is 3, which forbids tracing; boot with another value"
    lacking = "" if capability else ", CAP_SYS_PTRACE is missing"
    give = "docker run --cap-add=SYS_PTRACE (Kubernetes: capabilities.add: [SYS_PTRACE])" if is_container else "run as root"
    if scope in {1, 2}:
        allow = f"run `sudo sysctl kernel.yama.ptrace_scope=0`, or {give}"
        limit = "only of the command itself, not of its children" if has_consented else "not at all"
        return f"stacks can be read {limit}: kernel.yama.ptrace_scope is {scope}{lacking}; {allow}"
    if capability is False:
        limit = "only of the command itself, not of its children" if has_consented else "not at all"
        return f"stacks can be read {limit}: no permission to trace{lacking}; {give}"
    return f"stacks cannot be read: tracing is refused although nothing shows why (seccomp, SELinux or AppArmor profile?); {give}"
