"""Events as lines for people: what happened, where, what next."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Any

from unsloth_watch.tell.moment import format_duration

PREFIX = "unsloth-watch: "
"""Begins every line of the supervisor's own, so that it can be told from the command's output."""

Event = Mapping[str, Any]
# Control signs of foreign text would move the cursor or recolour the terminal; separators would break the line.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class Verbosity(int, enum.Enum):
    """How much the supervisor says."""

    QUIET = 0
    """Only hangs, what came of them, and failures."""
    NORMAL = 1
    """The way of a run."""
    VERBOSE = 2
    """Suspicions, phases and sensors too."""


def describe(event: Event, verbosity: Verbosity = Verbosity.NORMAL) -> str | None:
    """Return one line about an event, None where it is not worth a line at this verbosity.

    Args:
        event: An event as ``EventLog.emit`` returned it or ``read_events`` read it.
        verbosity: How much the user wants to hear.
    """
    level, phrase = _PHRASES.get(event["event"], (Verbosity.VERBOSE, _describe_unknown))
    if event["event"] == "run.finished" and event.get("outcome") in ("hung", "error"):
        level = Verbosity.QUIET
    if verbosity < level:
        return None
    return PREFIX + clean_line(phrase(event))


def clean_line(text: str) -> str:
    """Return foreign text as one line without control signs."""
    return _CONTROL.sub(" ", text).strip()


def _describe_run_started(event: Event) -> str:
    place = event.get("run_directory")
    return f"run {event['run']}" + (f", records in {place}" if place else "")


def _describe_run_finished(event: Event) -> str:
    words = {
        "completed": "the command completed",
        "failed": "the command failed",
        "hung": "gave up on a hang",
        "interrupted": "interrupted",
        "error": "the supervisor failed",
    }
    return f"{words.get(event['outcome'], event['outcome'])}, exit status {event['exit_code']}"


_OWN_VARIABLES = ("UNSLOTH_WATCH_", "NOTIFY_SOCKET", "WATCHDOG_", "PYTHONUNBUFFERED")
"""What every attempt gets from us: markers, sockets, and unbuffered output through a pipe."""


def _describe_attempt_started(event: Event) -> str:
    changes = event["env_changes"]
    # What a remedy changed is the news.
    names = ", ".join(sorted(name for name in changes if not name.startswith(_OWN_VARIABLES)))
    attempt = event["attempt"]
    return f"attempt {attempt} runs as PID {event['pid']}" + (f" with changed {names}" if names and attempt > 1 else "")


def _describe_attempt_finished(event: Event) -> str:
    how = f"by signal {event['signal']}" if event["signal"] else f"with exit status {event['exit_code']}"
    return f"attempt {event['attempt']} ended {how}" + (f": {event['reason']}" if event["reason"] else "")


def _describe_hang(event: Event) -> str:
    sure = "proven" if event["proven"] else "not proven, waited out"
    where = _name_culprit(event["culprit"])
    return (
        f"hang after {format_duration(event['quiet_s'])} without progress ({event['cause']}, {sure}): {event['summary']}"
        + (f" [{where}]" if where and where not in str(event["summary"]) else "")
        + (f"; report in {event['path']}" if event.get("path") else "")
    )


def _name_culprit(culprit: object) -> str:
    if not isinstance(culprit, Mapping):
        return str(culprit or "")
    parts = [culprit.get("frame"), culprit.get("path"), culprit.get("peer")]
    if culprit.get("pid"):
        parts.append(f"PID {culprit['pid']}")
    return ", ".join(str(part) for part in parts if part)


def _describe_captured(event: Event) -> str:
    missing = event["missing"]
    text = f"evidence of incident {event['incident']} saved in {format_duration(event['seconds'])}"
    return text if event["complete"] or not missing else f"{text}; missing: {_join(missing)}"


def _describe_unkillable(event: Event) -> str:
    channel = event["wait_channel"]
    return (
        f"PID {_join(event['pids'])} survives SIGKILL"
        + (f" (waits in the kernel: {_join(channel)})" if channel else "")
        + "; only the kernel can end it: check the mount or driver it waits for, then reboot"
    )


def _describe_released(event: Event) -> str:
    if event["is_free"]:
        later = f"{format_duration(event['seconds'])} later" if event["seconds"] >= 1 else "at once"
        return f"GPU memory of the ended attempt was free {later}"
    return f"GPU memory of the ended attempt is still held after {format_duration(event['seconds'])}: {_join(event['devices'])}"


def _describe_reload(event: Event) -> str:
    changed = ", ".join(f"{name} is now {_join(value)}" for name, value in event["changed"].items())
    deferred = f"; from the next start on: {_join(event['deferred'])}" if event["deferred"] else ""
    return f"settings read again: {changed or 'nothing changed for this run'}{deferred}"


def _join(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _describe_unknown(event: Event) -> str:
    return f"{event['event']}"


_PHRASES: dict[str, tuple[Verbosity, Callable[[Event], str]]] = {
    "run.started": (Verbosity.NORMAL, _describe_run_started),
    "run.finished": (Verbosity.NORMAL, _describe_run_finished),
    "attempt.started": (Verbosity.NORMAL, _describe_attempt_started),
    "attempt.finished": (Verbosity.NORMAL, _describe_attempt_finished),
    "phase.changed": (Verbosity.VERBOSE, lambda event: f"phase {event['phase']} (from {event['source']})"),
    "stall.suspected": (
        Verbosity.VERBOSE,
        lambda event: f"no progress for {format_duration(event['quiet_s'])}, looking closer: {_join(event['evidence'])}",
    ),
    "stall.cleared": (Verbosity.VERBOSE, lambda event: f"moving again: {_join(event['by'])}"),
    "hang.detected": (Verbosity.QUIET, _describe_hang),
    "hang.repaired": (
        Verbosity.QUIET,
        lambda event: f"repaired without a kill by {event['remedy']} ({event['cause']}): {_join(event['progress'])}",
    ),
    "incident.captured": (Verbosity.NORMAL, _describe_captured),
    "remedy.applied": (
        Verbosity.NORMAL,
        lambda event: (
            f"remedy {event['remedy']} applied to {_join(event['target'])}" + (f"; undo: {event['undo']}" if event["undo"] else "")
        ),
    ),
    "attempt.terminating": (
        Verbosity.NORMAL,
        lambda event: f"ending attempt {event['attempt']} with {event['signal']}: {event['reason']}",
    ),
    "attempt.unkillable": (Verbosity.QUIET, _describe_unkillable),
    "restart.scheduled": (
        Verbosity.NORMAL,
        lambda event: "starting again " + (f"in {format_duration(event['delay_s'])}" if event["delay_s"] else "now"),
    ),
    "restart.refused": (Verbosity.QUIET, lambda event: f"not starting again: {event['why']}"),
    "gpu.fault": (Verbosity.NORMAL, lambda event: f"GPU {event['device']} reported {event['meaning']}"),
    "gpu.released": (Verbosity.NORMAL, _describe_released),
    "watch.paused": (Verbosity.NORMAL, lambda _event: "watching is paused: nothing is judged until it is resumed"),
    "watch.resumed": (Verbosity.NORMAL, lambda _event: "watching again, judged afresh"),
    "settings.reloaded": (Verbosity.NORMAL, _describe_reload),
    "sensor.degraded": (Verbosity.VERBOSE, lambda event: f"cannot see {event['sensor']}: {event['why']}"),
}
