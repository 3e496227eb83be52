"""The import path of a running Python, worked out from outside: nothing is imported and nothing is run in the job.

The rules are those of CPython's ``site`` and path initialisation: the script's directory or the working directory,
``PYTHONPATH``, the standard library, the user's and the environment's site-packages and what their ``.pth`` files append.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.invocation import Invocation, is_python, read_invocation

MAX_PTH_FILES = 200
"""``.pth`` files read of one directory; environments with dozens of editable installs have about as many."""
_MAX_PTH_BYTES = 64 * 1024
_VERSION = re.compile(r"python(\d+\.\d+t?)")
_SITE = re.compile(r"^(.*/(?:site|dist)-packages)/")


def job_import_path(process: ProcessEvidence) -> tuple[str, ...]:
    """Return ``sys.path`` of a process as far as it can be known from outside, in order and without duplicates.

    What the program itself changed in ``sys.path`` is not seen, except that a site-packages directory which its frames come from is
    appended where nothing else led to it. A relative entry is taken from the present working directory.
    """
    environment = process.environment or {}
    call = read_invocation(process.command) if process.command else Invocation("stdin")
    cwd = process.cwd or ""
    found: dict[str, None] = {}

    def add(path: str) -> None:
        if path and os.path.isabs(path):
            found.setdefault(os.path.normpath(path))

    for entry in (*_first_entry(process, call), *_python_path(environment, call, cwd)):
        add(os.path.join(cwd, entry) if cwd else entry)
    for entry in _site_entries(process, call, environment):
        add(entry)
    for directory in frame_sites(process):
        add(directory)
    return tuple(found)


def frame_sites(process: ProcessEvidence) -> tuple[str, ...]:
    """Return the site-packages directories that the process's frames come from, those of the innermost frames first."""
    found: dict[str, None] = {}
    for thread in process.threads:
        for frame in thread.frames:
            match = _SITE.match(frame.file)
            if match is not None:
                found.setdefault(match[1])
    return tuple(found)


def find_prefix(process: ProcessEvidence) -> str | None:
    """Return ``sys.prefix``: the directory of ``pyvenv.cfg`` beside or above the interpreter as it was called, else of the binary.

    ``/proc/PID/exe`` names the interpreter that a virtual environment links to, so the first argument comes first.
    """
    called = _called_interpreter(process)
    if called is not None:
        beside = os.path.dirname(called)
        for directory in (beside, os.path.dirname(beside)):
            if os.path.isfile(os.path.join(directory, "pyvenv.cfg")):
                return directory
    binary = (process.executable or called or "").removesuffix(" (deleted)")
    return os.path.dirname(os.path.dirname(os.path.realpath(binary))) if binary else None


def _called_interpreter(process: ProcessEvidence) -> str | None:
    name = process.command[0] if process.command else ""
    if "/" in name:
        return os.path.join(process.cwd or "/", name)
    if not is_python((name,), None):
        return None
    for directory in (process.environment or {}).get("PATH", "").split(os.pathsep):
        path = os.path.join(process.cwd or "/", directory, name)
        if directory and os.access(path, os.X_OK):
            return path
    return None


def _first_entry(process: ProcessEvidence, call: Invocation) -> Iterator[str]:
    """Yield what CPython puts in front, unless ``-P``, ``-I`` or ``PYTHONSAFEPATH`` (3.11 and later) forbids it."""
    is_safe = "I" in call.flags or "P" in call.flags
    if not call.ignores_environment and (process.environment or {}).get("PYTHONSAFEPATH"):
        is_safe = is_safe or _version_of(process) not in {"3.8", "3.9", "3.10"}
    if is_safe or process.cwd is None:
        return
    if call.kind != "script":
        yield process.cwd
        return
    # Links are followed, as CPython does; a directory or an archive that is run is itself the entry.
    script = os.path.realpath(os.path.join(process.cwd, call.target))
    is_container = os.path.isdir(script) or script.endswith((".zip", ".pyz", ".pex"))
    yield script if is_container else os.path.dirname(script)


def _python_path(environment: dict[str, str], call: Invocation, cwd: str) -> Iterator[str]:
    value = environment.get("PYTHONPATH", "")
    if value and not call.ignores_environment:
        for entry in value.split(os.pathsep):
            yield entry or cwd


def _version_of(process: ProcessEvidence) -> str | None:
    """Return ``3.11``, or ``3.13t`` for the free-threaded build."""
    if process.python_version:
        return ".".join(process.python_version.split(".")[:2])
    match = _VERSION.search(os.path.basename((process.executable or "").removesuffix(" (deleted)")))
    return match[1] if match else None


def _site_entries(process: ProcessEvidence, call: Invocation, environment: dict[str, str]) -> Iterator[str]:
    prefix, version = find_prefix(process), _version_of(process)
    if prefix is None:
        return
    config = _read_venv(prefix)
    homes = [prefix]
    base = os.path.dirname(config["home"]) if "home" in config else prefix
    has_system_sites = config.get("include-system-site-packages", "false").lower() == "true"
    if config and has_system_sites:
        homes.append(base)
    for library in _libraries(base, version):
        yield library
        yield os.path.join(library, "lib-dynload")
    if "S" in call.flags:
        return
    is_own = not config or has_system_sites
    if is_own and not call.flags & {"s", "I"} and not (environment.get("PYTHONNOUSERSITE") and not call.ignores_environment):
        home = environment.get("PYTHONUSERBASE") or os.path.join(environment.get("HOME", "/nonexistent"), ".local")
        for library in _libraries(home, version):
            yield from with_pth(os.path.join(library, "site-packages"))
    for place in homes:
        for library in _libraries(place, version):
            for name in ("site-packages", "dist-packages"):
                if os.path.isdir(os.path.join(library, name)):
                    yield from with_pth(os.path.join(library, name))
    if not config and version is not None and prefix in {"/usr", "/usr/local"}:
        yield from with_pth("/usr/lib/python3/dist-packages")  # Debian's own packages


def _libraries(prefix: str, version: str | None) -> list[str]:
    """Return the ``lib/pythonX.Y`` directories of a prefix; all of them where the version is unknown."""
    try:
        names = sorted(os.listdir(os.path.join(prefix, "lib")))
    except OSError:
        return []
    wanted = {f"python{version}", f"python{version}t"} if version else None
    return [
        os.path.join(prefix, "lib", name) for name in names if (name in wanted if wanted else _VERSION.fullmatch(name) is not None)
    ]


def _read_venv(prefix: str) -> dict[str, str]:
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8", errors="replace") as file:
            pairs = [line.partition("=") for line in file.read(_MAX_PTH_BYTES).splitlines()]
    except OSError:
        return {}
    return {name.strip().lower(): value.strip() for name, _, value in pairs if value}


def with_pth(directory: str) -> Iterator[str]:
    """Yield a site-packages directory and what its ``.pth`` files append; lines that run code are not run."""
    yield directory
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".pth") and not name.startswith("."))
    except OSError:
        return
    for name in names[:MAX_PTH_FILES]:
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                lines = file.read(_MAX_PTH_BYTES).splitlines()
        except OSError:
            continue
        for line in lines:
            entry = line.rstrip()
            if entry and not entry.startswith(("#", "import ", "import\t")):
                path = os.path.normpath(os.path.join(directory, entry))
                if os.path.exists(path):
                    yield path
