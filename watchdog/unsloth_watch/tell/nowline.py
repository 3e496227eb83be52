"""A live state in one line: ``attempt 1 trains: step 30 → 31 of 60, 4 s ago``; systemd shows it, and so does ``show``."""

from __future__ import annotations

from unsloth_watch.model.live import LiveState
from unsloth_watch.tell.moment import format_duration

_PHASES = {
    "capturing": "counts as hung, evidence is being taken",
    "repairing": "is being repaired in place",
    "terminating": "is being ended",
    "finished": "is over",
}


def describe_now(live: LiveState) -> str:
    """Return one line about this moment of a run."""
    parts = [f"attempt {live.attempt}"]
    if live.phase == "waiting":
        parts = [f"waiting {format_duration(live.next_attempt_s or 0.0)} for attempt {live.attempt + 1}"]
    elif live.phase in _PHASES:
        parts.append(_PHASES[live.phase])
    elif live.is_paused:
        parts.append("runs, not watched (paused)")
    elif live.state is None:
        parts.append("runs")
    else:
        phase = "" if live.job_phase == "unknown" else f" in {live.job_phase}"
        parts.append(f"{live.state}{phase}")
    text = " ".join(parts)
    if live.last_progress is not None and live.last_progress_s is not None and live.phase != "waiting":
        text += f"; last progress {format_duration(live.last_progress_s)} ago: {live.last_progress}"
    if live.status:
        text += f"; {live.status}"
    if live.is_ending and live.phase != "finished":
        text += "; ending was asked for"
    return text
