"""Variables that do nothing, do harm, or contradict each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unsloth_watch.capture.interpreter import find_unread
from unsloth_watch.model.checkup import Finding, Fix, Level
from unsloth_watch.supervise.checkup.scene import Scene

MEANT = {"UNSLOTH_CACHE_DIR": "UNSLOTH_COMPILE_LOCATION moves the compile cache"}
"""What is meant by variables that blog posts name and that nothing reads."""
REMOVED = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS")
"""Variables that ``import unsloth`` takes out of the environment (seen in 2026.10.7)."""
_TRUE = {"1", "true", "yes", "on"}


def check_variables(scene: Scene) -> Iterator[Finding]:
    """Yield what is wrong with the environment."""
    environment, versions = scene.environment, scene.versions
    own = {choice.variable for choice in scene.choices if choice.path is not None}
    named = [name for name in environment if name.startswith("UNSLOTH_") and not name.startswith("UNSLOTH_WATCH_")]
    for name in find_unread(named, scene.interpreter, ("unsloth", "unsloth_zoo")) if scene.interpreter and named else ():
        yield Finding(
            "variables", name, Level.WARNING, environment[name], "no file of the installed unsloth and unsloth_zoo names it",
            MEANT.get(name, "unset it, or correct its name"), "environment",
        )  # fmt: skip
    for name in REMOVED:
        if environment.get(name) and name not in own and "unsloth" in versions:
            mend = "TMPDIR moves the cache" if name.endswith("DIR") else "set it in the script, after the import"
            yield Finding(
                "variables", name, Level.WARNING, environment[name], "import unsloth removes it, so it has no effect",
                mend, "environment",
            )  # fmt: skip
    if environment.get("UNSLOTH_LOCK_TIMEOUT", "").startswith("-"):
        yield Finding(
            "variables", "UNSLOTH_LOCK_TIMEOUT", Level.WARNING, environment["UNSLOTH_LOCK_TIMEOUT"],
            "a lock that another process holds is waited for without an end", "unset it: 10 s, then another place", "environment",
        )  # fmt: skip
    yield from _check_temp(scene)
    yield from _check_offline(scene)


def _check_temp(scene: Scene) -> Iterator[Finding]:
    for name in ("TMPDIR", "TEMP", "TMP"):
        value = scene.environment.get(name)
        if value and not os.path.isdir(os.path.join(scene.cwd, value)):
            yield Finding(
                "variables", name, Level.WARNING, f"{value} is no directory", "temporary files and compile caches go elsewhere",
                "create it, or doctor --fix", "environment", Fix("make-directory", os.path.join(scene.cwd, value)),
            )  # fmt: skip


def _check_offline(scene: Scene) -> Iterator[Finding]:
    environment = scene.environment
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environment.get(name, "").lower() in _TRUE]
    if offline and "unsloth" in scene.versions and not environment.get("UNSLOTH_DISABLE_STATISTICS"):
        yield Finding(
            "variables", offline[0], Level.NOTE, "set, but UNSLOTH_DISABLE_STATISTICS is not",
            "Unsloth's call at the start may wait for up to 120 s; older versions froze there", "UNSLOTH_DISABLE_STATISTICS=1",
            "environment",
        )  # fmt: skip
    if environment.get("HF_HUB_ENABLE_HF_TRANSFER", "").lower() in _TRUE and "hf-transfer" not in scene.versions:
        yield Finding(
            "variables", "HF_HUB_ENABLE_HF_TRANSFER", Level.WARNING, "set, but hf_transfer is not installed", "downloads fail",
            "pip install hf_transfer, or unset it", "environment",
        )  # fmt: skip


def is_offline(scene: Scene) -> bool:
    """Whether the hub is told not to use the network."""
    return any(scene.environment.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
