"""Which versions of the libraries that keep compile caches a command will import, from the names of their metadata directories.

On the launch path, so nothing is run or imported and no metadata is opened: one listing of ``site-packages`` (0.3 ms for 300
entries). What an exact answer needs, ``doctor`` asks the interpreter itself.
"""

from __future__ import annotations

import os

from unsloth_watch.model.wrapper import list_pythons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIBRARIES = ("torch", "triton", "unsloth", "unsloth_zoo")
"""Distributions by the spelling of their metadata directory."""
_MAX_PTH = 20
_MAX_PTH_BYTES = 4096


def read_installed(command: Sequence[str], environment: Mapping[str, str], cwd: str) -> dict[str, str]:
    """Return versions by library, and the interpreter's own as ``python`` where a library was found; empty for no Python.

    The command's own interpreter or script decides; for a shell or another wrapper (``bash train.sh``, ``srun python``) the Python
    that it names or would find.

    Args:
        command: Argument vector.
        environment: The command's environment.
        cwd: Its working directory.
    """
    for program in list_pythons(command):
        path = find_program(program, environment, cwd)
        if path is None:
            continue
        for prefix in dict.fromkeys(os.path.dirname(os.path.dirname(one)) for one in (path, os.path.realpath(path))):
            found = _read_prefix(prefix, os.path.basename(os.path.realpath(path)), environment)
            if len(found) > 1:
                return found
    return {}


def find_program(name: str, environment: Mapping[str, str], cwd: str) -> str | None:
    """Return the path that ``execvp`` would take; None where there is none."""
    if "/" in name:
        path = os.path.join(cwd, name)
        return path if os.access(path, os.X_OK) else None
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(cwd, directory or ".", name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def _read_prefix(prefix: str, program: str, environment: Mapping[str, str]) -> dict[str, str]:
    own = program if program.startswith("python3.") else ""
    names = [name for name in _list(os.path.join(prefix, "lib")) if name == own or (not own and name.startswith("python3."))]
    found: dict[str, str] = {}
    for name in names:
        homes = (os.path.join(environment.get("HOME", "/nonexistent"), ".local"), prefix)
        for site in (os.path.join(home, "lib", name, kind) for home in homes for kind in ("site-packages", "dist-packages")):
            for directory in (site, *_read_pth(site)):
                for entry in _list(directory):
                    library, _, rest = entry.partition("-")
                    if library in LIBRARIES and entry.endswith(".dist-info"):
                        found.setdefault("python", name.removeprefix("python"))
                        found.setdefault(library, rest.removesuffix(".dist-info"))
    return found


def _read_pth(site: str) -> Iterator[str]:
    """Yield the directories that the ``.pth`` files of a site directory append; lines that run code are passed over."""
    for name in [name for name in _list(site) if name.endswith(".pth")][:_MAX_PTH]:
        try:
            with open(os.path.join(site, name), "rb") as file:
                lines = os.fsdecode(file.read(_MAX_PTH_BYTES)).splitlines()
        except OSError:
            continue
        entries = (line.strip() for line in lines if not line.startswith(("#", "import ", "import\t")))
        yield from (os.path.join(site, entry) for entry in entries if entry)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
