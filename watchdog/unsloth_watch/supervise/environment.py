"""The environment of an attempt: the user's own, our markers, and what remedies changed. On the launch path."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""systemd's words to us; the command would answer in our name."""


def compose_environment(
    user: Mapping[str, str], remedied: Mapping[str, str | None], markers: Mapping[str, str], *, is_piped: bool
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Return the environment of the next attempt, and how it differs from the user's.

    Args:
        user: Our own environment.
        remedied: What remedies set so far; None unsets.
        markers: ``UNSLOTH_WATCH_RUN`` and its kin, and ``NOTIFY_SOCKET``.
        is_piped: Whether output goes through a pipe, behind which Python would hold it back (first line after 3 s, nothing after
            a SIGKILL).
    """
    environment = {name: value for name, value in user.items() if name not in _OURS}
    if is_piped and "PYTHONUNBUFFERED" not in environment:
        environment["PYTHONUNBUFFERED"] = "1"
    environment.update(markers)
    for name, value in remedied.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    changes: dict[str, str | None] = {name: value for name, value in environment.items() if user.get(name) != value}
    changes.update({name: None for name in user if name not in environment})
    return environment, changes
