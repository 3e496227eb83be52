"""What a project is, and where its own compile caches lie. On the launch path: imports nothing heavy."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIGNS = (".git", "pyproject.toml", "unsloth-watch.toml", "setup.py", "requirements.txt")
"""Names that make a directory the root of a project."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


def find_project(cwd: str, command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the root of the project: the nearest directory with a sign of one above the working directory, else above the script.

    The user's home and the root directory are no projects, whatever lies in them.
    """
    home = os.path.realpath(environment.get("HOME") or os.path.expanduser("~"))
    scripts = [os.path.join(cwd, word) for word in command if word.endswith((".py", ".sh"))][:1]
    for start in (cwd, *(os.path.dirname(script) for script in scripts)):
        place = os.path.realpath(start)
        while place not in ("/", home):
            if any(os.path.lexists(os.path.join(place, sign)) for sign in SIGNS):
                return place
            place = os.path.dirname(place)
    return None


def find_cache_home(environment: Mapping[str, str]) -> str:
    """Return the directory that holds the caches of all projects, by the XDG Base Directory Specification."""
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".cache")
    return os.path.join(base, "unsloth-watch")


def name_project(root: str, installed: Mapping[str, str]) -> str:
    """Return the name of a project's directory: a hash of its place, then the versions, so that no two of either share one."""
    from _blake2 import blake2b  # noqa: PLC0415 - hashlib itself loads OpenSSL, 3 ms before the launch

    digest = blake2b(os.fsencode(os.path.realpath(root)), digest_size=6).hexdigest()
    versions = "-".join(f"{name}{version}" for name, version in sorted(installed.items()))
    return f"{digest}-" + "".join(sign if sign in _PLAIN else "_" for sign in versions)
