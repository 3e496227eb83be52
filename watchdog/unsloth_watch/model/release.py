"""Release versions: compared as numbers, without the whole of PEP 440.

Versions of libraries decide about causes and remedies, always as "since" and "up to"; epochs and local labels play no part
in that, so a parser of thirty lines replaces the dependency on ``packaging``.
"""

from __future__ import annotations

import re

Key = tuple[tuple[int, ...], int, int]

_VERSION = re.compile(
    r"v?(?:\d+!)?(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev|post|rev|r)[-_.]?(\d*))?", re.IGNORECASE
)
_CLAUSE = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*$")
_STAGES = {
    "dev": 0,
    "a": 1,
    "alpha": 1,
    "b": 2,
    "beta": 2,
    "c": 3,
    "rc": 3,
    "pre": 3,
    "preview": 3,
    "": 4,
    "post": 5,
    "rev": 5,
    "r": 5,
}


def read_version(text: str) -> Key | None:
    """Return a key that orders releases, None where ``text`` starts with no version.

    ``2.13.0+cpu`` equals ``2.13``; ``5.0rc1`` lies before ``5.0`` and ``5.0.post1`` behind it.
    """
    match = _VERSION.match(text.strip())
    if match is None:
        return None
    numbers = [int(number) for number in match[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _STAGES[(match[2] or "").lower()], int(match[3] or 0)


def is_within(version: str | None, versions: str) -> bool | None:
    """Return whether a version fulfils every clause of ``>=2025.3.2,<2025.3.8``; an empty text means every version.

    Args:
        version: Installed version; None if unknown.
        versions: Clauses with ``<``, ``<=``, ``==``, ``!=``, ``>=``, ``>``, joined by commas.

    Returns:
        None where the version is unknown or cannot be read.

    Raises:
        ValueError: ``versions`` is no such list: a fault of this program's own knowledge.
    """
    key = None if version is None else read_version(version)
    answers = []
    for clause in versions.split(",") if versions.strip() else ():
        match = _CLAUSE.match(clause)
        bound = None if match is None else read_version(match[2])
        if match is None or bound is None:
            msg = f"no version clause: {clause!r} in {versions!r}"
            raise ValueError(msg)
        if key is not None:
            answers.append(_fulfils(key, match[1], bound))
    return None if key is None else all(answers)


def _fulfils(key: Key, sign: str, bound: Key) -> bool:
    return {
        "<": key < bound,
        "<=": key <= bound,
        "==": key == bound,
        "!=": key != bound,
        ">=": key >= bound,
        ">": key > bound,
    }[sign]
