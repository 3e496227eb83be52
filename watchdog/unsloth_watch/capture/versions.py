"""Installed versions of the libraries that matter, as the job sees them, without importing or running anything."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from unsloth_watch.capture.importpath import job_import_path
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.invocation import is_python

DISTRIBUTIONS = frozenset(
    re.findall(
        r"\S+",
        """
        accelerate bitsandbytes cut-cross-entropy datasets deepspeed fasteners filelock flash-attn fsspec hf-transfer hf-xet
        huggingface-hub lightning multiprocess ninja numba numpy nvidia-nccl-cu12 nvidia-nccl-cu13 peft pyarrow pytorch-lightning
        ray safetensors sentence-transformers sentencepiece tokenizers torch torchao torchvision tqdm transformers triton trl
        unsloth unsloth-zoo vllm wandb xformers
        """,
    )
)
"""Distributions that appear in the catalogue of causes or decide about a remedy, by normalised name."""
MAX_PROCESSES = 16
"""Processes whose import path is read. Workers share their parent's; 16 distinct ones take about 50 ms."""
_MAX_METADATA_BYTES = 16 * 1024
_UNDERSCORED = {"unsloth-zoo": "unsloth_zoo", "huggingface-hub": "huggingface_hub"}
# Names that are written with an underscore wherever people meet them; all others keep the hyphen.


def read_versions(processes: Sequence[ProcessEvidence]) -> dict[str, str]:
    """Return version by distribution name; the first process and the first entry of its import path win, as in an import.

    Args:
        processes: Captured processes, the root first. Those that run no Python are passed over.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for process in list_pythons(processes)[:MAX_PROCESSES]:
        for directory in job_import_path(process):
            if directory not in seen:
                seen.add(directory)
                for name, version in _list_installed(directory):
                    found.setdefault(name, version)
    return found


def list_pythons(processes: Sequence[ProcessEvidence]) -> list[ProcessEvidence]:
    """Return the processes that run a Python, each kind of import path once: forked workers say nothing new."""
    found: dict[tuple[object, ...], ProcessEvidence] = {}
    for process in processes:
        has_frames = any(thread.frames for thread in process.threads)
        if process.python_version or has_frames or is_python(process.command, process.executable):
            key = (process.command, process.cwd, (process.environment or {}).get("PYTHONPATH"))
            found.setdefault(key, process)
    return list(found.values())


def normalise_name(name: str) -> str:
    """Return a distribution's name in the normal form of PEP 503: ``unsloth_zoo`` → ``unsloth-zoo``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _list_installed(directory: str) -> list[tuple[str, str]]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = []
    for entry in sorted(names):
        if not entry.endswith((".dist-info", ".egg-info")):
            continue
        name, _, rest = entry.rpartition(".")[0].partition("-")
        normal = normalise_name(name)
        if normal in DISTRIBUTIONS:
            version = _read_metadata(os.path.join(directory, entry)) or rest.partition("-")[0]
            if version:
                found.append((_UNDERSCORED.get(normal, normal), version))
    return found


def _read_metadata(path: str) -> str | None:
    """Return the version that the metadata itself says; pip names the directory alike, other tools not always."""
    for name in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(path, name), encoding="utf-8", errors="replace") as file:
                head = file.read(_MAX_METADATA_BYTES)
        except OSError:
            continue
        match = re.search(r"^Version:\s*(\S+)", head, re.MULTILINE)
        if match is not None:
            return match[1]
    return None
