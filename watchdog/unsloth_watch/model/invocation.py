"""How a Python was called: what of its command line decides about its import path."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_TAKES_VALUE = frozenset("WX")
_PYTHON = re.compile(r"python(\d(\.\d+)?t?)?$|pypy3?(\.\d+)?$")


class Invocation(msgspec.Struct, frozen=True):
    """A parsed command line.

    Attributes:
        kind: ``script``, ``module`` (``-m``), ``command`` (``-c``) or ``stdin``.
        target: The script or module as given; empty otherwise.
        flags: Letters of the options without a value: ``I``, ``E``, ``s``, ``P``, ``S``, ``u``, …
    """

    kind: str
    target: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def ignores_environment(self) -> bool:
        """Whether ``PYTHONPATH`` and its kin are not read (``-E`` or ``-I``)."""
        return bool(self.flags & {"E", "I"})


def is_python(command: Sequence[str] | None, executable: str | None) -> bool:
    """Return whether a process runs a Python, by the name of its executable or, where that is unreadable, of its command."""
    path = executable or (command[0] if command else "")
    return _PYTHON.match(path.removesuffix(" (deleted)").rpartition("/")[2]) is not None


def read_invocation(command: Sequence[str]) -> Invocation:
    """Return what the interpreter makes of its arguments; ``command[0]`` is the interpreter itself."""
    flags: set[str] = set()
    words = iter(command[1:])
    for word in words:
        if word == "-" or not word.startswith("-"):
            return Invocation("stdin" if word == "-" else "script", "" if word == "-" else word, frozenset(flags))
        if word == "--":
            target = next(words, "")
            return Invocation("script" if target else "stdin", target, frozenset(flags))
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(words, "")
            continue
        for place, letter in enumerate(word[1:], 2):
            rest = word[place:]
            if letter in "cm":
                return Invocation(
                    "command" if letter == "c" else "module", "" if letter == "c" else rest or next(words, ""), frozenset(flags)
                )
            if letter in _TAKES_VALUE:
                if not rest:
                    next(words, "")
                break
            flags.add(letter)
    return Invocation("stdin", "", frozenset(flags))
