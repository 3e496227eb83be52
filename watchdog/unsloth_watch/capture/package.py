"""Whether an import path leads to a directory as a package, by CPython's rules and without importing."""

from __future__ import annotations

import importlib.machinery
import os
from collections.abc import Sequence

import msgspec

_SUFFIXES = (*importlib.machinery.EXTENSION_SUFFIXES, ".py", ".pyc")


class Lookup(msgspec.Struct, frozen=True):
    """What ``import NAME`` would find.

    Attributes:
        is_found: Whether modules in the wanted directory can be imported as ``NAME.module``.
        shadowed_by: The package or module that is found instead; None if there is none.
        portions: Directories that together are the namespace package; empty for a regular package.
    """

    is_found: bool
    shadowed_by: str | None = None
    portions: tuple[str, ...] = ()


def find_package(directory: str, import_path: Sequence[str]) -> Lookup:
    """Return what the import path finds under a directory's name.

    A regular package (with ``__init__.py``) or a module of that name ends the search at once; directories without it are
    collected and together become a namespace package, so several of them do not shadow each other.
    """
    name = os.path.basename(directory)
    portions: list[str] = []
    for entry in import_path:
        candidate = os.path.join(entry, name)
        if any(os.path.isfile(os.path.join(candidate, f"__init__{suffix}")) for suffix in _SUFFIXES):
            is_it = is_same_file(candidate, directory)
            return Lookup(is_it, None if is_it else candidate)
        module = next((candidate + suffix for suffix in _SUFFIXES if os.path.isfile(candidate + suffix)), None)
        if module is not None:
            return Lookup(False, module)
        if os.path.isdir(candidate):
            portions.append(candidate)
    return Lookup(any(is_same_file(portion, directory) for portion in portions), None, tuple(portions))


def is_same_file(first: str, second: str) -> bool:
    """Whether two paths lead to the same file; False where one of them leads nowhere."""
    try:
        return os.path.samestat(os.stat(first), os.stat(second))
    except OSError:
        return False
