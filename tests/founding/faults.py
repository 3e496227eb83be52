"""Faults of a compile cache, made for real in a job's directory; used by the tests.

Run as a program it prints the table of what each fault does to the unsupervised example: ``python faults.py INTERPRETER [FAULT]...``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "founding"
CACHE = "unsloth_compiled_cache"

ORDINARY_USER = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
"""Prefix that drops root's power to ignore permissions; the user id stays, so its own files stay its own."""

FULL_DISK = ("unshare", "--mount", "sh", "-c")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        prepare: Makes the fault in the job's directory.
        environment: Variables that it needs; ``{job}`` stands for the job's directory.
        wrap: Shell text run in a private mount namespace before the job, empty for none; ``{job}`` as above.
    """

    prepare: Callable[[Path], None]
    environment: dict[str, str] = field(default_factory=dict)
    wrap: str = ""


def _nothing(job: Path) -> None:
    del job


def _file_in_its_place(job: Path) -> None:
    (job / CACHE).write_text("left by somebody\n")


def _read_only_directory(job: Path) -> None:
    (job / CACHE).mkdir()
    (job / CACHE).chmod(0o555)


def _read_only_directory_with_module(job: Path) -> None:
    (job / CACHE).mkdir()
    (job / CACHE / "scaled_mse.py").write_text(
        "import torch.nn.functional as F\n\ndef scaled_mse(prediction, target, scale):\n    return F.mse_loss(prediction, target) * scale\n"
    )
    (job / CACHE / "scaled_mse.py").chmod(0o444)
    (job / CACHE).chmod(0o555)


def _read_only_cwd(job: Path) -> None:
    job.chmod(0o555)


def _read_only_home(job: Path) -> None:
    (job / "home").mkdir()
    (job / "home").chmod(0o555)


def _shadow(job: Path) -> None:
    (job / "scripts" / CACHE).mkdir()
    (job / "scripts" / CACHE / "__init__.py").write_text("")


def _made_beforehand(job: Path) -> None:
    (job / CACHE).mkdir()


IMPORTABLE = {"PYTHONPATH": "{job}"}

FAULTS = {
    "healthy": Fault(_nothing, IMPORTABLE),
    "cwd-not-importable": Fault(_nothing),
    "made-beforehand": Fault(_made_beforehand),
    "file-in-its-place": Fault(_file_in_its_place, IMPORTABLE),
    "read-only-directory": Fault(_read_only_directory, IMPORTABLE),
    "read-only-with-module": Fault(_read_only_directory_with_module, IMPORTABLE),
    "read-only-cwd": Fault(_read_only_cwd, IMPORTABLE),
    "read-only-cwd-and-temp": Fault(_read_only_cwd, {**IMPORTABLE, "TMPDIR": "{job}"}),
    "disk-full": Fault(
        _nothing,
        IMPORTABLE,
        # 64 kB: the directory and the script fit, the rest is filled to the last byte.
        wrap="mount -t tmpfs -o size=64k none {job} && cp -r {example}/scripts {job} && mkdir {job}/"
        + CACHE
        + " && cat /dev/zero > {job}/filler 2>/dev/null; cd {job} && ",
    ),
    "read-only-home": Fault(_read_only_home, {**IMPORTABLE, "HOME": "{job}/home"}),
    "shadowed": Fault(_shadow, IMPORTABLE),
}


def lay_out(job: Path) -> Path:
    """Copy the example into a directory of its own."""
    shutil.copytree(EXAMPLE / "scripts", job / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return job


def command_of(fault: Fault, python: Path, job: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run the example under a fault, as an ordinary user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNSLOTH", "HF_"))}
    environment |= {name: value.format(job=job) for name, value in fault.environment.items()}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [*ORDINARY_USER, str(python), "scripts/train.py", "--steps", "3"]
    if fault.wrap:
        command = [*FULL_DISK, fault.wrap.format(job=job, example=EXAMPLE) + "exec " + " ".join(command)]
    return command, environment


def observe(name: str, python: Path, job: Path, seconds: float) -> tuple[str, str]:
    """Run the example unsupervised; return (``fine``, ``hangs`` or ``crashes``) and the last words it said."""
    fault = FAULTS[name]
    fault.prepare(lay_out(job))
    command, environment = command_of(fault, python, job)
    process = subprocess.Popen(
        command, cwd=job, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return "hangs", last_line(output)
    finally:
        restore_permissions(job)
    return ("fine" if process.returncode == 0 else "crashes"), last_line(output)


def restore_permissions(job: Path) -> None:
    """Make everything below writable again, so that pytest can remove it."""
    for path in (job, job / CACHE, job / "home"):
        if path.is_dir():
            path.chmod(0o755)


def last_line(output: str) -> str:
    """Return the last line that says something."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


if __name__ == "__main__":
    import tempfile
    import time

    for name in sys.argv[2:] or FAULTS:
        with tempfile.TemporaryDirectory() as directory:
            begin = time.monotonic()
            outcome, words = observe(name, Path(sys.argv[1]), Path(directory) / "job", 45)
            print(f"{name:26s} {outcome:8s} {time.monotonic() - begin:5.1f} s  {words}", flush=True)
