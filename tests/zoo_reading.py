"""Reads the heads of the zoo's programs: what each is expected to do, and what must be found out about it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACE = Path(__file__).with_name("zoo")

_HEAD = re.compile(r"^# /// zoo\n((?:#(?: .*)?\n)+?)# ///\n", re.MULTILINE)
_SECONDS = re.compile(r"(?:(?P<factor>\d+(?:\.\d+)?)\*S)?(?:(?: \+ )?(?P<constant>\d+(?:\.\d+)?))?")
_COMMON: dict[str, type] = {"expect": str, "needs": list, "stdin": str}
_KEYS: dict[str, dict[str, type]] = {
    "hang": {**_COMMON, "causes": list, "culprit": list, "provable": bool, "cure": str, "timeouts": str},
    "healthy": {**_COMMON, "lives_by": str, "seconds": str},
}
_OPTIONAL: dict[str, type] = {"outside": list, "actions": str}
_CHOICES = {
    "stdin": ("null", "open-pipe", "tty"),
    "cure": ("continue", "drain", "shutdown", "mkdir", "quarantine", "relaunch", "environment", "none"),
    "timeouts": ("stall", "busy", "rhythm"),
    "actions": ("", "stop-continue"),
}


class HeadError(Exception):
    """A program's head is missing or wrong; the message names the file and the key."""


@dataclass(frozen=True)
class Program:
    """One program of the zoo.

    Attributes:
        path: The file.
        title: First line of its docstring.
        is_hang: Whether it hangs.
        needs: Libraries beyond the standard one; where there are any it runs in the environment ``modern``.
        stdin: ``null``, ``open-pipe`` or ``tty``.
        outside: Arguments of ``outside.py``, run before the program and outside the tree; the last is a file in ZOO_DIR.
        actions: What the runner does to it meanwhile: ``stop-continue`` or nothing.
        causes: Accepted ids of the catalogue, best first; empty for a healthy program.
        culprit: Strings of which one must appear in the culprit or the summary.
        is_provable: Whether no message from outside could ever wake it.
        cure: What would mend it.
        timeouts: What finds it when it is not proven: ``stall``, ``busy`` or ``rhythm`` (twice the stall timeout).
        lives_by: What shows that a healthy program lives.
        seconds: How long a healthy program takes, as a formula of the stall timeout S.
    """

    path: Path
    title: str
    is_hang: bool
    needs: tuple[str, ...] = ()
    stdin: str = "null"
    outside: tuple[str, ...] = ()
    actions: str = ""
    causes: tuple[str, ...] = ()
    culprit: tuple[str, ...] = ()
    is_provable: bool = False
    cure: str = ""
    timeouts: str = ""
    lives_by: str = ""
    seconds: str = ""

    @property
    def name(self) -> str:
        """File name without its ending."""
        return self.path.stem

    def duration_s(self, stall_s: float) -> float:
        """Return how long a healthy program takes at a stall timeout, seconds."""
        match = _SECONDS.fullmatch(self.seconds)
        assert match is not None  # as read_program checks
        return float(match["factor"] or 0) * stall_s + float(match["constant"] or 0)


def read_program(path: Path) -> Program:
    """Return the program in a file.

    Raises:
        HeadError: No head, no docstring, an unknown or missing key, or a value of the wrong type or none of its choices.
    """
    text = path.read_text(encoding="utf-8")
    found = _HEAD.search(text)
    if found is None:
        raise HeadError(f"{path.name}: no head between '# /// zoo' and '# ///'")
    try:
        head: dict[str, Any] = tomllib.loads("".join(line[2:] + "\n" for line in found[1].splitlines()))
    except tomllib.TOMLDecodeError as error:
        raise HeadError(f"{path.name}: {error}") from error
    _check(path.name, head)
    title = re.match(r'"""([^\n]+?)(?:"""|\n)', text)
    if title is None:
        raise HeadError(f"{path.name}: no docstring")
    is_hang = head["expect"] == "hang"
    if path.name.startswith("hang_") is not is_hang:
        raise HeadError(f"{path.name}: the name does not fit expect = {head['expect']!r}")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in head.items()}
    del fields["expect"]
    return Program(path=path, title=title[1], is_hang=is_hang, is_provable=fields.pop("provable", False), **fields)


def _check(name: str, head: dict[str, Any]) -> None:
    keys = _KEYS.get(head.get("expect", ""))
    if keys is None:
        raise HeadError(f"{name}: expect must be 'hang' or 'healthy', not {head.get('expect')!r}")
    for key in keys.keys() - head.keys():
        raise HeadError(f"{name}: key {key!r} is missing")
    for key, value in head.items():
        kind = {**keys, **_OPTIONAL}.get(key)
        if kind is None:
            raise HeadError(f"{name}: unknown key {key!r}")
        is_right = isinstance(value, kind) and (not isinstance(value, list) or all(isinstance(one, str) for one in value))
        if not is_right:
            raise HeadError(f"{name}: {key} = {value!r} should be {'a list of strings' if kind is list else kind.__name__}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise HeadError(f"{name}: {key} = {value!r} is none of {', '.join(_CHOICES[key])}")
    if "causes" in head and not (head["causes"] and head["culprit"]):
        raise HeadError(f"{name}: causes and culprit must name something")
    if "seconds" in head and (not head["seconds"] or not _SECONDS.fullmatch(head["seconds"])):
        raise HeadError(f"{name}: seconds = {head['seconds']!r} is not like '3*S + 4'")


def read_zoo(place: Path = PLACE) -> list[Program]:
    """Return all programs, hanging ones first, by name.

    Raises:
        HeadError: One of them has a wrong head.
    """
    programs = [read_program(path) for kind in ("hang", "healthy") for path in sorted(place.glob(f"{kind}_*.py"))]
    if not programs:
        raise HeadError(f"{place}: no programs")
    return programs
