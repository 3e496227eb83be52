"""The service manager's socket (sd_notify): ready, alive, what we are doing, how much longer; silent where nobody listens.

On the launch path: imports nothing heavy. Source of the words: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_WATCHDOG_SHARE = 4.0
"""``WATCHDOG=1`` goes out so many times in ``WatchdogSec``; sd_watchdog_enabled(3) asks for two at least."""
_STATUS_EVERY_S = 5.0
"""Least seconds between two status lines that differ only in their numbers: systemd wakes for each."""
_LONGEST_STATUS = 400


class ServiceManager:
    """Tells systemd, or whoever set ``NOTIFY_SOCKET``, how the service is. Never blocks and never raises.

    Nothing here has a thread: ``WATCHDOG=1`` is sent by ``tick`` alone, so a loop that stands lets the watchdog run out.

    Args:
        environment: Our own; ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.
        pid: Our PID; a watchdog that is meant for another process is left alone.

    Attributes:
        is_present: Whether somebody listens.
        watchdog_s: ``WatchdogSec`` in seconds; None where there is none.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" means an abstract name; "vsock:" and the like are for virtual machines.
        self._address = "\0" + address[1:] if address[:1] == "@" else address if address[:1] == "/" else ""
        self.is_present = bool(self._address)
        self.watchdog_s = _read_watchdog(environment, pid) if self.is_present else None
        self._fed_at: float | None = None
        self._status = ""
        self._status_at = 0.0

    @property
    def beat_s(self) -> float | None:
        """Longest seconds that the loop may sleep; None where nobody counts."""
        return None if self.watchdog_s is None else self.watchdog_s / _WATCHDOG_SHARE

    def ready(self, pid: int) -> None:
        """Say that the command was started.

        Args:
            pid: The command's PID, for the status line.
        """
        self._send(f"READY=1\nSTATUS=started PID {pid}")

    def tick(self, now: float) -> None:
        """Say that the loop goes round, where that is due.

        Args:
            now: Monotonic seconds.
        """
        beat = self.beat_s
        if beat is not None and (self._fed_at is None or now - self._fed_at >= beat / 2):
            self._fed_at = now
            self._send("WATCHDOG=1")

    def wants_status(self, now: float) -> bool:
        """Whether a status line would be sent now, so that none is composed in vain."""
        return self.is_present and now - self._status_at >= _STATUS_EVERY_S

    def status(self, text: str, now: float) -> None:
        """Say in one line what we are doing.

        Args:
            text: The line.
            now: Monotonic seconds.
        """
        line = " ".join(text.split())[:_LONGEST_STATUS]
        self._status_at = now
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def extend(self, seconds: float) -> None:
        """Ask for more time to stop: so many seconds from now. Outside a start or a stop it changes nothing."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def reloading(self, now: float) -> None:
        """Say that the configuration is being read again; ``reloaded`` follows.

        Args:
            now: Seconds of CLOCK_MONOTONIC, which systemd 253 and later want with it.
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={round(now * 1_000_000)}")

    def reloaded(self) -> None:
        """Say that it is read."""
        self._send("READY=1")

    def _send(self, text: str) -> None:
        if not self.is_present:
            return
        try:
            channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        except OSError:  # no descriptor is left: what matters is sent again
            return
        try:
            channel.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            # The manager is being re-executed or its queue is full; what matters is sent again.
            pass
        finally:
            channel.close()


def _read_watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    usec = environment.get("WATCHDOG_USEC", "")
    owner = environment.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0 or (owner and owner != str(pid)):
        return None
    return int(usec) / 1_000_000
