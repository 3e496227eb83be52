#!/usr/bin/env python3
"""Builds and caches the real environments in which the founding hang and today's library are run.

``python scripts/environments.py founding modern`` prints the path of one interpreter a line; a second call returns at once.

``base`` holds torch for the CPU and triton, once on the disk. ``founding`` (unsloth_zoo 2025.3.1, where the hang of
unslothai/unsloth#1898 lives) and ``modern`` (unsloth and unsloth_zoo 2026.10.7, transformers, trl, datasets) are thin layers: a
virtual environment of their own plus a ``.pth`` that appends base's site-packages.

Everything is pinned and installed with ``--no-deps``: the libraries' own requirements would pull CUDA's torch and torchvision, some
3 GB more. Measured on Python 3.11 with every wheel in reach: base 1.5 GB (torch and triton 0.7 each), founding 0.5 MB, modern
0.5 GB; one minute in all, and a second call 0.07 s. Python 3.10 takes the last releases that support it; 3.11 to 3.13 share their
pins. Verified on all four. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

TORCH = "2.13.0"

OLD_PYTHON = "python_version < '3.11'"
NEW_PYTHON = "python_version >= '3.11'"

BASE_PINS = (
    f"filelock==4.2.12; {NEW_PYTHON}",
    f"filelock==4.1.0; {OLD_PYTHON}",
    "fsspec==2026.9.0",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "mpmath==1.3.0",
    f"networkx==3.6.1; {NEW_PYTHON}",
    f"networkx==3.4.2; {OLD_PYTHON}",
    f"numpy==2.4.6; {NEW_PYTHON}",
    f"numpy==2.2.6; {OLD_PYTHON}",
    "packaging==26.3",
    "setuptools==84.2.1",
    "sympy==1.14.0",
    "triton==3.7.0",
    "typing_extensions==4.16.0",
)

MODERN_PINS = (
    "accelerate==1.15.0",
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    f"annotated-doc==0.0.7; {NEW_PYTHON}",
    f"annotated-doc==0.0.6; {OLD_PYTHON}",
    "annotated-types==0.8.0",
    "anyio==4.16.0",
    "attrs==26.1.0",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
    "click==8.5.1",
    "cut-cross-entropy==25.1.1",
    "datasets==4.8.5",
    "dill==0.4.1",
    "docstring_parser==0.18.0",
    "einops==0.8.2",
    f"exceptiongroup==1.3.0; {OLD_PYTHON}",
    "frozenlist==1.8.0",
    "h11==0.16.0",
    "hf-xet==1.8.0",
    "httpcore==1.0.9",
    "httpx==0.28.1",
    "huggingface_hub==1.33.0",
    "idna==3.20",
    "markdown-it-py==4.3.0",
    "mdurl==0.1.2",
    "msgspec==0.22.0",
    f"multidict==7.2.1; {NEW_PYTHON}",
    f"multidict==7.1.0; {OLD_PYTHON}",
    "multiprocess==0.70.19",
    "nest-asyncio==1.6.0",
    f"pandas==3.1.1; {NEW_PYTHON}",
    f"pandas==2.3.3; {OLD_PYTHON}",
    "peft==0.21.2",
    f"pillow==13.0.0; {NEW_PYTHON}",
    f"pillow==12.3.0; {OLD_PYTHON}",
    "propcache==0.5.4",
    "protobuf==7.36.2",
    "psutil==7.2.2",
    f"pyarrow==26.0.1; {NEW_PYTHON}",
    f"pyarrow==25.0.1; {OLD_PYTHON}",
    "pydantic==2.14.3",
    "pydantic_core==2.50.4",
    "Pygments==2.21.0",
    f"python-dateutil==4.0.0; {NEW_PYTHON}",
    f"python-dateutil==3.0.0; {OLD_PYTHON}",
    f"pytz==2026.6; {OLD_PYTHON}",
    "PyYAML==6.0.3",
    f"regex==2026.11.15; {NEW_PYTHON}",
    f"regex==2026.9.29; {OLD_PYTHON}",
    "requests==2.34.2",
    "rich==15.0.0",
    "safetensors==0.8.0",
    "sentencepiece==0.2.3",
    "shellingham==1.5.4",
    "six==1.17.0",
    "tokenizers==0.23.3",
    "tqdm==4.70.1",
    "transformers==5.17.0",
    # trl 1.15 fails on a CPU without Triton's drivers; 1.5.0 works.
    "trl==1.5.0",
    "typeguard==4.6.0",
    f"typer==0.29.2; {NEW_PYTHON}",
    f"typer==0.29.1; {OLD_PYTHON}",
    "typing-inspection==0.4.5",
    "tyro==1.0.17",
    "unsloth==2026.10.7",
    "unsloth_zoo==2026.10.7",
    "urllib3==2.8.0",
    "xxhash==4.1.0",
    "yarl==1.25.1",
)

PEER_PINS = (
    "defusedxml==0.7.1",
    "nvidia-ml-py==12.575.51",
    "nvidia-resiliency-ext==0.4.1",
    "psutil==7.2.2",
    "pynvml==12.0.0",
    "PyYAML==6.0.3",
)
"""Launchers to compare with: ft_launcher, and torchrun, which comes with torch."""

NVIDIA_SMI = """#!/bin/sh
# Stands in for NVIDIA's tool on machines without one: unsloth_zoo 2025.3.1 reads a memory line from it.
echo "memory.used [MiB]"
echo "1024 MiB"
"""

IMPORT_CHECK = """
import os, sys
os.environ.update(UNSLOTH_IS_PRESENT="1", UNSLOTH_ALLOW_CPU="1")
os.environ["PATH"] = os.path.join(sys.prefix, "bin") + os.pathsep + os.environ.get("PATH", "")
import torch
torch.cuda.get_device_capability = lambda *_: (8, 0)
import unsloth_zoo.compiler
"""


class BuildError(Exception):
    """An environment could not be built; the message holds the end of the failed command's output."""


@dataclass(frozen=True)
class Environment:
    """What is in one environment.

    Attributes:
        pins: Requirements, installed with ``--no-deps``.
        base: Name of the environment whose site-packages is appended, or None.
        has_torch: Whether torch is installed into it, from the first source that has a CPU wheel.
        has_stand_ins: Whether it gets an empty package ``unsloth`` and an ``nvidia-smi``.
        check: Program that must run in it. It also fills the byte code of just the modules that a job imports.
    """

    pins: tuple[str, ...]
    check: str
    base: str | None = None
    has_torch: bool = False
    has_stand_ins: bool = False


ENVIRONMENTS = {
    "base": Environment(pins=BASE_PINS, has_torch=True, check="import torch, triton, torch.optim, torch.nn"),
    "founding": Environment(pins=("unsloth_zoo==2025.3.1",), base="base", has_stand_ins=True, check=IMPORT_CHECK),
    "modern": Environment(pins=MODERN_PINS, base="base", check=IMPORT_CHECK),
    "peers": Environment(pins=PEER_PINS, base="base", check="import nvidia_resiliency_ext.fault_tolerance.launcher"),
}


def default_root() -> Path:
    """Where environments are cached: ``TEST_ENVIRONMENTS`` or ``.cache/envs`` of the project."""
    return Path(os.environ.get("TEST_ENVIRONMENTS") or PROJECT / ".cache" / "envs")


def locate(name: str, root: Path | None = None) -> Path:
    """Return the directory of an environment, built or not: its name and a hash of all that goes into it."""
    spec = ENVIRONMENTS[name]
    below = locate(spec.base, root).name if spec.base else ""
    parts = [TORCH, below, sys.version_info[:2], platform.machine(), _pins_of(spec), spec.check, NVIDIA_SMI]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return (root or default_root()) / f"{name}-{digest}"


def _pins_of(spec: Environment) -> list[str]:
    """Return the pins for this Python, so that a pin for another one rebuilds nothing here."""
    left_out = NEW_PYTHON if sys.version_info < (3, 11) else OLD_PYTHON
    return [pin.partition(";")[0] for pin in spec.pins if not pin.endswith(left_out)]


def is_built(name: str, root: Path | None = None) -> bool:
    """Whether an environment can be had at once."""
    return (locate(name, root) / ".complete").exists()


def python_of(name: str, root: Path | None = None) -> Path:
    """Return the interpreter of an environment, building it where it is missing.

    Args:
        name: ``base``, ``founding``, ``modern`` or ``peers``.
        root: Directory of all environments; `default_root` unless given.

    Raises:
        BuildError: A package could not be installed, or the environment does not import what it is for.
    """
    directory = locate(name, root)
    if not (directory / ".complete").exists():
        with _only_builder(directory):
            # A virtual environment cannot be renamed (its scripts hold its path), so it is built in place and marked at the end.
            # One that an interrupted builder left is unmarked and starts over.
            if not (directory / ".complete").exists():
                _build(name, directory, root)
    return directory / "bin" / "python"


@contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Hold the lock of one environment; flock dies with its owner, so a killed builder blocks nobody."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(directory.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(name: str, directory: Path, root: Path | None) -> None:
    spec = ENVIRONMENTS[name]
    shutil.rmtree(directory, ignore_errors=True)
    print(f"building environment {name} in {directory}", file=sys.stderr, flush=True)
    if spec.base is None:
        _call([sys.executable, "-m", "venv", str(directory)])
        installer = directory / "bin" / "python"
    else:
        # Its base's pip installs for it: 16 MB and 3 seconds less.
        installer = python_of(spec.base, root)
        _call([sys.executable, "-m", "venv", "--without-pip", str(directory)])
    pip = [str(installer), "-m", "pip", "--python", str(directory / "bin" / "python"), "install", "--no-deps", "--no-compile", "-q"]
    if spec.has_torch:
        _install_torch(pip)
    _call([*pip, *_pins_of(spec)])
    packages = _site_packages(directory)
    if spec.base is not None:
        (packages / "unsloth_watch_base.pth").write_text(f"{_site_packages(locate(spec.base, root))}\n")
    if spec.has_stand_ins:
        (packages / "unsloth").mkdir()
        (packages / "unsloth" / "__init__.py").write_text('"""Empty: unsloth_zoo only asks whether it is there."""\n')
        tool = directory / "bin" / "nvidia-smi"
        tool.write_text(NVIDIA_SMI)
        tool.chmod(0o755)
    # Elsewhere than in the project: the check must not find or leave a compile cache there.
    _call([str(directory / "bin" / "python"), "-c", spec.check], cwd=directory)
    (directory / ".complete").touch()


def _install_torch(pip: list[str]) -> None:
    """Install torch for the CPU: from pip's own sources, else from PyTorch's index, else whatever PyPI has for this machine."""
    attempts = (
        [f"torch=={TORCH}+cpu"],
        # PyPI's wheel for x86-64 is CUDA's and needs its libraries to be imported: large, and it works.
        ["--deps", f"torch=={TORCH}"],
    )
    failures = []
    for arguments in attempts:
        command = [part for part in pip if part != "--no-deps"] if "--deps" in arguments else pip
        try:
            _call([*command, *(argument for argument in arguments if argument != "--deps")])
        except BuildError as error:
            failures.append(str(error))
        else:
            return
    raise BuildError(f"no torch {TORCH} to be had:\n" + "\n".join(failures))


def _site_packages(directory: Path) -> Path:
    return directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _call(command: list[str], cwd: Path | None = None) -> None:
    """Run a command quietly.

    Raises:
        BuildError: It failed.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)[:300]} ended with {done.returncode}:\n{done.stdout[-2000:]}")


def main(arguments: list[str] | None = None) -> int:
    """Print the interpreter of each named environment, one a line."""
    parser = argparse.ArgumentParser(description="Build the real environments of the tests and the demo; print their interpreters.")
    parser.add_argument("names", nargs="+", choices=sorted(ENVIRONMENTS), metavar="NAME", help=", ".join(sorted(ENVIRONMENTS)))
    parser.add_argument("--root", type=Path, help="directory of all environments (default: TEST_ENVIRONMENTS or .cache/envs)")
    options = parser.parse_args(arguments)
    try:
        for name in options.names:
            print(python_of(name, options.root), flush=True)
    except BuildError as error:
        print(f"environments: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
