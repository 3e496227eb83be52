"""The command, its Python, and the libraries whose versions are known to hang or to wait."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from unsloth_watch.capture.interpreter import find_program
from unsloth_watch.model.checkup import Finding, Level
from unsloth_watch.model.invocation import is_python, read_invocation
from unsloth_watch.model.release import is_within
from unsloth_watch.supervise.checkup.scene import Scene


class Fault(msgspec.Struct, frozen=True):
    """A known fault of a library.

    Attributes:
        library: Distribution.
        versions: Versions that have it.
        level: How grave it is.
        why: What it does.
        mend: What to do about it.
        needs_ranks: Whether it concerns only jobs with several ranks.
    """

    library: str
    versions: str
    level: Level
    why: str
    mend: str
    needs_ranks: bool = False


_UPGRADE = "pip install -U 'unsloth_zoo>=2025.3.8'"
FAULTS = (
    Fault(
        "unsloth_zoo", "<=2025.2.7", Level.WARNING,
        "it retries every compiled function with growing sleeps, minutes in all (unslothai/unsloth#1859)", _UPGRADE,
    ),
    Fault(
        "unsloth_zoo", ">=2025.3.1,<2025.3.2", Level.WARNING,
        "it waits for ever where the working directory is not on the import path (unslothai/unsloth#1898)", _UPGRADE,
    ),
    Fault(
        "unsloth_zoo", ">=2025.3.2,<2025.3.8", Level.WARNING,
        "it fails after 1000 tries where the working directory is not on the import path (unslothai/unsloth#1898)", _UPGRADE,
    ),
    Fault(
        "unsloth_zoo", "<2026.9.2", Level.WARNING,
        "one late rank leaves another in a barrier for ever (unslothai/unsloth-zoo#967)",
        "pip install -U 'unsloth_zoo>=2026.9.2'", needs_ranks=True,
    ),
)  # fmt: skip
"""Each measured in the library itself."""


def check_command(scene: Scene) -> Iterator[Finding]:
    """Yield whether the command can be started, and with which Python."""
    if scene.command and find_program(scene.command[0], scene.environment, scene.cwd) is None:
        yield Finding(
            "command", scene.command[0], Level.ERROR, "not found, or not executable", "nothing would be started",
            "give its path, or activate its environment",
        )  # fmt: skip
    invocation = read_invocation(scene.command) if is_python(scene.command, None) else None
    if invocation is not None and invocation.kind == "script" and not os.path.exists(os.path.join(scene.cwd, invocation.target)):
        yield Finding(
            "command",
            invocation.target,
            Level.ERROR,
            "no such file",
            "Python would end with status 2",
            "check the path, or change directory",
        )
    python = scene.interpreter
    if python is None:
        yield Finding("command", "Python", Level.NOTE, "the command starts no Python that could be known")
    elif python.problem:
        yield Finding(
            "command", "Python", Level.ERROR, f"{python.path} does not answer: {python.problem}", "nothing could run in it",
            f"run {python.path} -c '' and see", python.source,
        )  # fmt: skip
    else:
        level = Level.FINE if is_within(python.version, ">=3.10") else Level.NOTE
        yield Finding("command", "Python", level, f"{python.version} at {python.path}", source=python.source)


def check_libraries(scene: Scene) -> Iterator[Finding]:
    """Yield the libraries with known faults, and those without in one line."""
    faulty = set()
    for fault in FAULTS:
        version = scene.versions.get(fault.library)
        if is_within(version, fault.versions) and (scene.has_ranks or not fault.needs_ranks):
            faulty.add(fault.library)
            yield Finding("libraries", fault.library, fault.level, str(version), fault.why, fault.mend, "installed versions")
    torch = scene.versions.get("torch", "")
    if torch.endswith("+cpu") and os.path.exists("/dev/nvidiactl"):
        faulty.add("torch")
        yield Finding(
            "libraries", "torch", Level.WARNING, torch, "there is a GPU here and this build cannot use it",
            "install torch from the index of its CUDA version", "installed versions",
        )  # fmt: skip
    rest = [f"{name} {version}" for name, version in sorted(scene.versions.items()) if name not in faulty]
    if rest:
        yield Finding("libraries", "others", Level.FINE, ", ".join(rest), source="installed versions")
