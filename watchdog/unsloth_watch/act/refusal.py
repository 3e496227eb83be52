"""Why a command could not be started, in words that say what to do next."""

from __future__ import annotations

import errno
import os

from unsloth_watch.errors import EXIT_SUPERVISOR, LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def explain_refusal(name: str, environment: Mapping[str, str], cwd: str, stage: str, code: int) -> LaunchError:
    """Say why a launch failed, and what to do next.

    Args:
        name: The command, as it was given.
        environment: Its environment, whose PATH it was looked up in.
        cwd: Its working directory.
        stage: What failed, in the guardian's word: ``fork``, ``setup``, ``chdir`` or ``exec``.
        code: The errno.
    """
    reason = os.strerror(code)
    if stage != "exec":
        thing = {"chdir": f"working directory {cwd}", "fork": "no new process"}.get(stage, "preparing the process")
        refusal = LaunchError(f"cannot start {name}: {thing}: {reason}", code)
        refusal.exit_code = EXIT_SUPERVISOR  # nothing is known about the command itself
        return refusal
    path = _find(os.path.join(cwd, name) if "/" in name else name, environment)
    if code in (errno.ENOENT, errno.ENOTDIR):
        if path:
            # The file is there: it exists and cannot be executed (126), whatever the kernel says.
            return LaunchError(
                f"cannot execute {path}: the interpreter of its first line (or its loader) does not exist", errno.ENOEXEC
            )
        where = "no such file" if "/" in name else "not found in PATH; check the spelling, or give its path"
        return LaunchError(f"cannot find {name}: {where}", errno.ENOENT)
    if path and os.path.isdir(path):
        return LaunchError(f"cannot execute {path}: is a directory", errno.EISDIR)
    hint = {
        errno.EACCES: f"; try chmod +x {path}, or name an interpreter (python {path})",
        errno.ENOEXEC: f": no program and no #! line; name an interpreter (sh {path})",
        errno.E2BIG: ": arguments and environment are too long together",
    }.get(code, "")
    return LaunchError(f"cannot execute {path or name}: {reason}{hint}", code)


def _find(name: str, environment: Mapping[str, str]) -> str | None:
    """Find the file that a command name means, executable or not, for the words of an error."""
    if "/" in name:
        return name if os.path.lexists(name) else None
    for folder in environment.get("PATH", os.defpath).split(":"):
        if os.path.exists(path := os.path.join(folder or ".", name)):
            return path
    return None
