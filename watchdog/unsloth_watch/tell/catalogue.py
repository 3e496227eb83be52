"""The events that exist and the fields each must have: the table of the contract."""

from __future__ import annotations

from collections.abc import Iterable

EVENTS: dict[str, frozenset[str]] = {
    "run.started": frozenset({"command"}),
    "run.finished": frozenset({"outcome", "exit_code"}),
    "attempt.started": frozenset({"pid", "env_changes"}),
    "attempt.finished": frozenset({"exit_code", "signal", "reason"}),
    "phase.changed": frozenset({"phase", "source"}),
    "stall.suspected": frozenset({"quiet_s", "evidence"}),
    "stall.cleared": frozenset({"by"}),
    "hang.detected": frozenset({"cause", "proven", "quiet_s", "confidence", "culprit", "summary", "incident"}),
    "hang.repaired": frozenset({"cause", "remedy", "progress"}),
    "incident.captured": frozenset({"incident", "seconds", "complete", "missing"}),
    "remedy.applied": frozenset({"remedy", "target", "kind", "undo"}),
    "attempt.terminating": frozenset({"reason", "signal"}),
    "attempt.unkillable": frozenset({"pids", "wait_channel"}),
    "restart.scheduled": frozenset({"delay_s"}),
    "restart.refused": frozenset({"why"}),
    "gpu.fault": frozenset({"device", "uuid", "xid", "meaning"}),
    "gpu.released": frozenset({"devices", "seconds", "is_free"}),
    "sensor.degraded": frozenset({"sensor", "why"}),
    "watch.paused": frozenset(),
    "watch.resumed": frozenset(),
    "settings.reloaded": frozenset({"changed", "deferred"}),
}
"""Event → required fields beside the reserved ones; a field may be null, more fields may be added."""

RESERVED = frozenset({"event", "timestamp", "run", "attempt"})
"""Fields that every event has and that no caller passes."""


def check_event(event: str, fields: Iterable[str]) -> None:
    """Fail where the program emits what the contract does not know; that is a fault of this program, never of the job.

    Raises:
        AssertionError: Unknown event, missing or reserved field.
    """
    assert event in EVENTS, f"unknown event {event!r}; the table is in {__name__}"
    given = frozenset(fields)
    missing = EVENTS[event] - given
    assert not missing, f"event {event!r} lacks {', '.join(sorted(missing))}"
    assert not given & RESERVED, f"event {event!r} sets reserved {', '.join(sorted(given & RESERVED))}"
