"""The caches that a fine-tune waits on: where each lies, how it locks, and which library makes it matter. Data only."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec


class Variable(msgspec.Struct, frozen=True):
    """An environment variable that moves a cache.

    Attributes:
        name: Its name.
        below: What is appended to its value.
        since: Versions of the cache's library that read it; empty for all.
        unless: A distribution whose import removes the variable from the environment.
    """

    name: str
    below: str = ""
    since: str = ""
    unless: str = ""


class CacheKind(msgspec.Struct, frozen=True):
    """One cache.

    Attributes:
        id: Stable name, as in ``CacheProbe.cache``.
        library: Distribution that uses it; it is probed where that is installed. Empty: always.
        variables: Variables that move it, the strongest first.
        default: Place without them; ``{cwd}``, ``{home}``, ``{temp}`` and ``{user}`` are the job's own, ``{leaf}`` is the last part
            of its ``UNSLOTH_COMPILE_LOCATION``.
        lock: ``flock``, ``exists`` (the file's existence is the lock), ``none`` or ``native``.
        lock_depth: Levels of directories below it in which its lock files lie.
        lock_names: Endings of the names of its lock files; only for ``exists``.
        package: Versions of the library that import it as a package from the import path; empty for none.
        note: What is worth knowing about it.
        entries: Patterns of the paths below it that are whole entries, which come and go as one; nothing else is ever pruned.
        sign: A file that a directory must hold to be an entry, up to three levels below it; empty where its name says enough.
        veto: A file, found as ``sign`` is, that makes a directory somebody's own work instead; empty for none.
        shard: What a name directly in an entry of two letters begins with, ``{name}`` being those letters: an entry must hold
            one, and nothing but such names and those of ``beside``; else it is somebody's own ``en`` or ``de``. Empty for none.
        beside: What else may lie there.
        rebuilds: Whether a pruned entry comes back by computing alone; False where it has to be downloaded or processed again.
        users: Parts of the paths of libraries by which a process that may use it is known: what it has mapped.
    """

    id: str
    library: str
    variables: tuple[Variable, ...]
    default: str
    lock: str
    lock_depth: int = 0
    lock_names: tuple[str, ...] = ()
    package: str = ""
    note: str = ""
    entries: tuple[str, ...] = ()
    sign: str = ""
    veto: str = ""
    shard: str = ""
    beside: str = ""
    rebuilds: bool = True
    users: tuple[str, ...] = ()


CACHES: tuple[CacheKind, ...] = (
    CacheKind(
        "unsloth-compiled",
        "unsloth_zoo",
        # First read in 2025.7.11; 2025.7.10 and all before know nothing of it.
        (Variable("UNSLOTH_COMPILE_LOCATION", since=">=2025.7.11"),),
        "{cwd}/unsloth_compiled_cache",
        "flock",
        lock_depth=1,
        package="<2025.3.8",
        note="rewritten at every start unless UNSLOTH_COMPILE_OVERWRITE=0",
    ),
    CacheKind("unsloth-fallback", "unsloth_zoo", (), "{temp}/{leaf}", "flock", lock_depth=1),
    CacheKind(
        "unsloth-mega",
        "unsloth_zoo",
        (Variable("UNSLOTH_MEGA_CACHE_DIR"),),
        "{home}/.cache/unsloth/mega_cache",
        "none",
        note="saved at exit: SIGKILL loses it",
        entries=(r"[0-9a-f]{8,64}",),
        sign="*.bin",
        users=("/libtorch",),
    ),
    CacheKind(
        "torch-extensions",
        "torch",
        (Variable("TORCH_EXTENSIONS_DIR"), Variable("XDG_CACHE_HOME", "torch_extensions")),
        "{home}/.cache/torch_extensions",
        "exists",
        lock_depth=2,
        lock_names=("lock",),
        note="a lock file left by a killed builder blocks for ever",
        entries=(r"py3\d+_\w+/[^/.][^/]*",),
        users=("/libtorch",),
    ),
    CacheKind(
        "inductor",
        "torch",
        (Variable("TORCHINDUCTOR_CACHE_DIR", unless="unsloth"),),
        "{temp}/torchinductor_{user}",
        "flock",
        lock_depth=1,
        note="import unsloth removes TORCHINDUCTOR_CACHE_DIR; TMPDIR moves it",
        entries=(r"[a-z2-7]{2}", r"(fxgraph|aotautograd)/[a-z2-7]+", r"triton/\d+/([A-Z2-7]{52}|[0-9a-f]{64})"),
        # torch/_inductor/codecache.py, get_path: a letter and the base32 of a SHA-256, in the directory of its second and third
        # sign. Beside them: best configurations by a hash of their own, and what a write that was cut off left.
        shard=r"[a-z]{name}[a-z2-7]{{40,}}",
        beside=r"[0-9a-z]{40,}|\.\d+\.\d+\.tmp|__pycache__",
        users=("/libtorch",),
    ),
    CacheKind(
        "triton",
        "triton",
        (Variable("TRITON_CACHE_DIR"), Variable("TRITON_HOME", ".triton/cache")),
        "{home}/.triton/cache",
        "none",
        entries=(r"[A-Z2-7]{52}|[0-9a-f]{64}",),  # base32 or hexadecimal of a SHA-256
        users=("/libtriton",),
    ),
    CacheKind(
        "hf-hub",
        "huggingface_hub",
        (
            Variable("HF_HUB_CACHE"),
            Variable("HUGGINGFACE_HUB_CACHE"),
            Variable("HF_HOME", "hub"),
            Variable("XDG_CACHE_HOME", "huggingface/hub"),
        ),
        "{home}/.cache/huggingface/hub",
        "flock",
        lock_depth=2,
        lock_names=(".soft",),
        rebuilds=False,
    ),
    CacheKind(
        "hf-xet",
        "hf-xet",
        (Variable("HF_XET_CACHE"), Variable("HF_HOME", "xet"), Variable("XDG_CACHE_HOME", "huggingface/xet")),
        "{home}/.cache/huggingface/xet",
        "native",
        note="HF_HUB_DISABLE_XET=1 does without it",
        entries=(r"[^/]+/(chunk|shard)[-_]cache", r"(chunk|shard)[-_]cache"),
        rebuilds=False,
        users=("/hf_xet",),
    ),
    CacheKind(
        "datasets",
        "datasets",
        (Variable("HF_DATASETS_CACHE"), Variable("HF_HOME", "datasets"), Variable("XDG_CACHE_HOME", "huggingface/datasets")),
        "{home}/.cache/huggingface/datasets",
        "flock",
        lock_depth=2,
        entries=(r"[^/.][^/]*",),
        sign="dataset_info.json",
        veto="state.json",  # of ``save_to_disk``, whose other file is named like the cache's
        rebuilds=False,
        users=("/pyarrow/",),
    ),
    CacheKind(
        "vllm",
        "vllm",
        (Variable("VLLM_CACHE_ROOT"), Variable("XDG_CACHE_HOME", "vllm")),
        "{home}/.cache/vllm",
        "flock",
        lock_depth=1,
        entries=(r"torch_compile_cache/[^/.][^/]*",),
        users=("/libtorch",),
    ),
    CacheKind(
        "numba",
        "numba",
        (Variable("NUMBA_CACHE_DIR"), Variable("XDG_CACHE_HOME", "numba")),
        "{home}/.cache/numba",
        "none",
        note="without NUMBA_CACHE_DIR most of it lies in __pycache__ beside the sources",
    ),
    CacheKind(
        "cuda",
        "torch",
        (Variable("CUDA_CACHE_PATH"),),
        "{home}/.nv/ComputeCache",
        "native",
        note="the driver keeps it below CUDA_CACHE_MAXSIZE by itself",
    ),
    CacheKind("temp", "", (), "{temp}", "none"),
)


class Place(msgspec.Struct, frozen=True):
    """Where a job has a cache, and which variable says so (``default`` for none)."""

    path: str
    origin: str


def find_place(kind: CacheKind, environment: Mapping[str, str], cwd: str, user: str, applies: Mapping[str, bool | None]) -> Place:
    """Return where a cache lies for a job.

    Args:
        kind: The cache.
        environment: The job's environment at its start; what it changed itself is not seen.
        cwd: Its working directory: relative places are relative to it.
        user: Name of its user.
        applies: By variable name, whether the installed version reads it; a variable that is missing here does, None counts as yes.
    """
    for variable in kind.variables:
        value = environment.get(variable.name, "")
        if value and applies.get(variable.name, True) is not False:
            path = os.path.join(
                value.replace("~", environment.get("HOME", "~"), 1) if value.startswith("~") else value, variable.below
            )
            return Place(os.path.normpath(os.path.join(cwd, path)), variable.name)
    temp, origin = find_temp(environment)
    path = kind.default.format(
        cwd=cwd,
        home=environment.get("HOME", "/root" if user == "root" else f"/home/{user}"),
        temp=temp,
        user=user,
        leaf=os.path.basename(environment.get("UNSLOTH_COMPILE_LOCATION") or "unsloth_compiled_cache"),
    )
    return Place(os.path.normpath(os.path.join(cwd, path)), origin if "{temp}" in kind.default else "default")


def find_temp(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the directory that ``tempfile.gettempdir`` tries first, and the variable that names it or ``default``."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        if environment.get(name):
            return environment[name], name
    return "/tmp", "default"  # noqa: S108 - the place that the job itself would take
