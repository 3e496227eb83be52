"""All checks, in the order in which they are told, and what ``--fix`` may do about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.mend import make_directory
from unsloth_watch.capture.deadline import DeadlineError, within
from unsloth_watch.config.duration import format_duration
from unsloth_watch.config.load import load_settings
from unsloth_watch.config.option import BY_NAME
from unsloth_watch.config.settings import Settings
from unsloth_watch.errors import ConfigError
from unsloth_watch.model.checkup import Finding, Level
from unsloth_watch.supervise.checkup.caches import check_caches
from unsloth_watch.supervise.checkup.libraries import check_command, check_libraries
from unsloth_watch.supervise.checkup.machine import check_machine
from unsloth_watch.supervise.checkup.network import check_network
from unsloth_watch.supervise.checkup.scene import look
from unsloth_watch.supervise.checkup.variables import check_variables
from unsloth_watch.supervise.repair import move_lock_aside

CHECKS = (check_command, check_libraries, check_variables, check_caches, check_machine, check_network)
"""Every check; each yields its findings from the scene."""
_CHECK_S = 60.0
"""Longest time for one of them: the slowest, with deadlines of its own for py-spy and NVML, takes less than half of it."""


class Fixed(msgspec.Struct, frozen=True):
    """What ``--fix`` did: the changes with their undo, and what it left alone and why."""

    changes: tuple[Change, ...]
    kept: tuple[str, ...]


def examine_launch(command: Sequence[str], environment: Mapping[str, str], cwd: str) -> tuple[Finding, ...]:
    """Return everything that was found about a launch of this command from this directory.

    Args:
        command: Argument vector; empty to look at the machine and the first Python of ``PATH``.
        environment: Our own environment.
        cwd: Our own directory.
    """
    settings, findings = _read_settings(environment, cwd)
    try:
        scene = within(_CHECK_S, look, command, environment, cwd, settings.cache)
    except DeadlineError as error:
        return (_tell_late("command", error), *findings)
    for check in CHECKS:
        try:
            findings += within(_CHECK_S, lambda: list(check(scene)))  # noqa: B023 - called at once
        except DeadlineError as error:
            findings.append(_tell_late(check.__name__.removeprefix("check_"), error))
    # Settings are told last: they are the least likely to be what is wrong.
    return tuple(sorted(findings, key=lambda finding: finding.group == "settings"))


def _tell_late(group: str, error: DeadlineError) -> Finding:
    why = "a file system or a driver does not answer, and the job would wait for it too"
    return Finding(group, group, Level.ERROR, str(error), why, "look for processes in state D, and for network mounts")


def fix(findings: Sequence[Finding], quarantine_dir: str) -> Fixed:
    """Do what is safe about findings; everything is checked once more at the moment it is done.

    Args:
        findings: What was found.
        quarantine_dir: Where lock files go.
    """
    changes: list[Change] = []
    kept: list[str] = []
    for finding in findings:
        if finding.fix is None:
            continue
        try:
            if finding.fix.kind == "make-directory":
                changes += make_directory(finding.fix.path)
            else:
                changes.append(move_lock_aside(finding.fix.path, quarantine_dir))
        except (MendError, OSError) as error:
            kept.append(str(error))
    return Fixed(tuple(changes), tuple(kept))


def _read_settings(environment: Mapping[str, str], cwd: str) -> tuple[Settings, list[Finding]]:
    try:
        settings = load_settings({}, environment, cwd)
    except ConfigError as error:
        wrong = Finding("settings", "settings", Level.ERROR, str(error), "unsloth-watch would not start", "correct it")
        return Settings({}, {}), [wrong]
    return settings, list(_tell_settings(settings))


def _tell_settings(settings: Settings) -> Iterator[Finding]:
    defaults = []
    for name, entry in settings.describe().items():
        value = _format(BY_NAME[name].kind, entry["value"])
        if entry["source"] == "default":
            defaults.append(f"{name} {value}")
        else:
            yield Finding("settings", name, Level.FINE, value, source=str(entry["source"]))
    yield Finding("settings", "others", Level.FINE, ", ".join(defaults), source="default")


def _format(kind: str, value: object) -> str:
    if isinstance(value, float) and kind == "duration":
        return format_duration(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)
