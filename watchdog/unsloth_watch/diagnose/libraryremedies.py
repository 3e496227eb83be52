"""Remedies that are a setting of a library: each None where the setting is there already or the version does not know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unsloth_watch.model.diagnosis import Remedy
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.release import is_within

_HUB_PATIENCE_S = 60
Ask = Callable[[ProcessEvidence, str | None], "Remedy | None"]
"""A remedy by the process that waits and the installed version of the entry's library."""


def _set(name: str, variables: Mapping[str, str], why: str, versions: str = "", advice: str = "") -> Ask:
    """Return a remedy that sets variables.

    Args:
        name: Its id.
        variables: What it sets.
        why: Why it helps.
        versions: Versions of the library that read the variables; empty for all.
        advice: What a person may do instead.
    """

    def ask(process: ProcessEvidence, version: str | None) -> Remedy | None:
        environment = process.environment or {}
        is_set = all(environment.get(key) == value for key, value in variables.items())
        if is_set or (versions and is_within(version, versions) is False):
            return None
        # Another value that the user set is part of the cause, in the very place of the library that the entry knows.
        return Remedy(name, why, "environment", environment=dict(variables), advice=advice, overrides=tuple(variables))

    return ask


def _advise(name: str, why: str, advice: str) -> Ask:
    return lambda process, version: Remedy(name, why, "advice", advice=advice)


def _single_compile_thread(process: ProcessEvidence, version: str | None) -> Remedy | None:
    """Compile in the process itself; importing unsloth takes the variable out of the environment, so it is set after that."""
    if (process.environment or {}).get("TORCHINDUCTOR_COMPILE_THREADS") == "1":
        return None
    why = "with one compile thread Inductor starts no pool of processes"
    is_unsloth = any("/unsloth" in frame.file for thread in process.threads for frame in thread.frames)
    if is_unsloth:
        return Remedy(
            "single-compile-thread",
            why + "; importing unsloth removes the variable, so it must be set after that",
            "advice",
            advice='os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1" right after import unsloth',
        )
    variables: dict[str, str | None] = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return Remedy("single-compile-thread", why, "environment", environment=variables, overrides=tuple(variables))


_P2P_OFF = _set(
    "nccl-without-p2p",
    {"NCCL_P2P_DISABLE": "1"},
    "consumer cards without peer-to-peer access hang in their first collective",
)


def _without_p2p(process: ProcessEvidence, version: str | None) -> Remedy | None:
    """Switch peer-to-peer access off, where the process has an NVIDIA card open: ranks on CPUs talk over Gloo, which has none."""
    files = process.descriptors
    has_card = files is None or any(one.target.startswith("/dev/nvidia") for one in files)
    return _P2P_OFF(process, version) if has_card else None


def _default_hub_timeouts(process: ProcessEvidence, version: str | None) -> Remedy | None:
    """Take high timeouts away: by default the library tries again after 10 s without a byte, and goes on where it was."""
    names = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
    high = [name for name in names if _is_above((process.environment or {}).get(name, ""), _HUB_PATIENCE_S)]
    if not high:
        return None
    why = f"{' and '.join(high)} let a silent server hold the job; by default the library tries again after 10 s without a byte"
    return Remedy("hub-timeouts", why, "environment", environment=dict.fromkeys(high))


def _is_above(text: str, seconds: float) -> bool:
    return text.isdecimal() and int(text) > seconds


SETTINGS: dict[str, Ask] = {
    "without-xet": _set(
        "without-xet",
        {"HF_HUB_DISABLE_XET": "1"},
        "without Xet the file comes over plain HTTP, with a read timeout and with retries",
        # The variable came with Xet in 0.30.
        ">=0.30",
    ),
    "without-hf-transfer": _set(
        "without-hf-transfer",
        {"HF_HUB_ENABLE_HF_TRANSFER": "0"},
        "hf_transfer has no read timeout, the library's own download has one",
        # Releases from 1.0 on ignore the variable.
        "<1.0",
    ),
    "hub-timeouts": _default_hub_timeouts,
    "hub-offline": _advise(
        "hub-offline",
        "files that are in the cache need no server",
        "if the files are in the cache already: HF_HUB_OFFLINE=1",
    ),
    "without-statistics": _set(
        "without-statistics",
        {"UNSLOTH_DISABLE_STATISTICS": "1"},
        "the download at the start is only for statistics",
    ),
    "trust-remote-code": _advise(
        "trust-remote-code",
        "the question is not asked when the answer is given in the call",
        "pass trust_remote_code=True or False to from_pretrained",
    ),
    "install-build-tools": _advise(
        "install-build-tools",
        "the question is only asked where packages are missing",
        "install build-essential, cmake, curl and libcurl4-openssl-dev before the export",
    ),
    "single-compile-thread": _single_compile_thread,
    "serial-tokenizers": _set(
        "serial-tokenizers",
        {"TOKENIZERS_PARALLELISM": "false"},
        "without its thread pool tokenizers holds no lock at the fork",
    ),
    "single-map-process": _advise(
        "single-map-process",
        "without worker processes there is no fork and no worker to lose",
        "map with num_proc=1 (dataset_num_proc=1 in trl, UNSLOTH_DATASET_NUM_PROC=1 in Unsloth)",
    ),
    "fewer-map-processes": _advise(
        "fewer-map-processes",
        "workers are killed for memory most often, and fewer need less",
        "lower num_proc, or writer_batch_size and batch_size, of map",
    ),
    "dataloader-spawn": _advise(
        "dataloader-spawn",
        "a spawned worker has none of the parent's locks",
        "DataLoader(multiprocessing_context='spawn'), or num_workers=0",
    ),
    "nccl-without-p2p": _without_p2p,
    "evaluate-on-all-ranks": _advise(
        "evaluate-on-all-ranks",
        "a collective needs every rank",
        "run evaluation and saving on every rank, not below `if is_main_process`",
    ),
    "engine-in-process": _advise(
        "engine-in-process",
        "the engine's own process says why it does not start",
        "look at the engine's log, and set VLLM_ENABLE_V1_MULTIPROCESSING=0 to have it in this process",
    ),
}
"""Every such remedy, by id."""
