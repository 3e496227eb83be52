"""The object of ``report.json``: plain data made from an incident, redacted, with the contract's names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Remedy
from unsloth_watch.model.evidence import Evidence, ProcessEvidence
from unsloth_watch.model.verdict import State
from unsloth_watch.tell.groups import group_stacks
from unsloth_watch.tell.incident import Incident, RemedyOutcome
from unsloth_watch.tell.moment import format_timestamp
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.secretname import is_secret
from unsloth_watch.tell.series import build_signals, latest_gpus, merge_devices
from unsloth_watch.tell.tail import clean_tail
from unsloth_watch.tell.waits import list_waits
from unsloth_watch.waits.ranks import find_ranks

SCHEMA = "unsloth-watch/incident/1"

RELEVANT = (
    "ACCELERATE_", "CONDA_", "CUDA", "DATASETS_", "DEEPSPEED_", "FSDP_", "GLOO_", "HF_", "HOME", "HUGGINGFACE_", "KMP_", "LANG",
    "LC_", "LD_", "LOCAL_", "MALLOC_", "MASTER_", "MKL_", "NCCL_", "NUMBA_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_", "PATH",
    "PYTHON", "PYTORCH_", "RANK", "SLURM_", "TMPDIR", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "TRL_", "UCX_",
    "UNSLOTH_", "VIRTUAL_ENV", "VLLM_", "WANDB_", "WORLD_SIZE", "XDG_",
)  # fmt: skip
"""Beginnings of the variables that a report shows: what changes how a fine-tune runs. The others are counted and left out, since
a report is made for public issues and no redaction knows every secret."""


def build_report(incident: Incident, redactor: Redactor) -> dict[str, Any]:
    """Return the object of ``report.json``: plain data, redacted; field names as the contract fixes them."""
    evidence, diagnosis = incident.evidence, incident.diagnosis
    groups = group_stacks(evidence, diagnosis.culprit)
    variables = select_variables(incident.environment)
    report = {
        "incident": {
            "run": incident.run,
            "number": incident.number,
            "attempt": incident.attempt,
            "command": list(incident.command),
            "cwd": incident.cwd,
            "at": format_timestamp(incident.wall),
            "phase": incident.verdict.phase,
            "actions": list(incident.actions),
            "captured_in_s": round(evidence.seconds, 3),
        },
        "verdict": _describe_verdict(incident),
        "diagnosis": _describe_diagnosis(diagnosis),
        "remedies": _describe_remedies(incident),
        "next_steps": _list_next_steps(incident),
        "processes": _describe_processes(evidence, groups),
        "stack_groups": groups,
        "waits": list_waits(evidence),
        "signals": build_signals(incident.samples, incident.verdict, incident.suspected_at),
        "gpu": merge_devices(latest_gpus(incident.samples), evidence.devices),
        "caches": list(evidence.caches),
        "locks": list(evidence.locks),
        "environment": {
            "versions": {**evidence.versions, **incident.versions},
            "host": dict(evidence.host),
            "variables": variables,
            "variables_left_out": len(incident.environment) - len(variables),
        },
        "reproduce": {
            "cwd": incident.cwd,
            "command": shlex.join(redactor.value(incident.command)),
            "variables": {name: value for name, value in variables.items() if _is_telling(name, value)},
        },
        "previous": list(incident.previous),
        "kernel_log": list(evidence.kernel_log),
        "missing": _list_missing(evidence),
    }
    plain: dict[str, Any] = {name: _redact(part, redactor) for name, part in report.items()}
    # Redacted before it is cleaned and cut, so that no half of a secret is left.
    plain["output_tail"] = clean_tail(redactor.text(incident.output_tail))
    return {"schema": SCHEMA, "fingerprint": diagnosis.fingerprint, **plain}


def select_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that matter to a fine-tune, by name."""
    return {name: environment[name] for name in sorted(environment) if name.startswith(RELEVANT)}


def _is_telling(name: str, value: str) -> bool:
    """Whether a variable belongs into a reproduction: secrets and those of the machine at hand (HOME, PATH) do not."""
    return not is_secret(name, value) and not name.startswith(
        ("HOME", "PATH", "LANG", "LC_", "XDG_", "CONDA_", "VIRTUAL_ENV", "SLURM_", "TMPDIR")
    )


def _redact(part: object, redactor: Redactor) -> object:
    """Redact the values of our own objects and leave their field names; keys are foreign only in the three maps of a report."""
    if isinstance(part, dict):
        foreign = {"variables", "versions", "host", "locals"}
        return {key: redactor.value(item) if key in foreign else _redact(item, redactor) for key, item in part.items()}
    if isinstance(part, list):
        if all(isinstance(item, str) for item in part):
            return redactor.value(part)
        return [_redact(item, redactor) for item in part]
    return redactor.value(part)


def _describe_verdict(incident: Incident) -> dict[str, Any]:
    verdict = incident.verdict
    progress = verdict.last_progress
    since = incident.wall - (verdict.at - progress.at if progress else verdict.quiet_s)
    confidence = incident.verdict_confidence
    return {
        "state": verdict.state.value,
        "proven": verdict.is_proven,
        "quiet_s": round(verdict.quiet_s, 3),
        "limit_s": round(verdict.limit_s, 3),
        "since": format_timestamp(since),
        "last_progress": None
        if progress is None
        else {"at": format_timestamp(since), "kind": progress.kind, "tier": progress.tier.name.lower(), "detail": progress.detail},
        "confidence": 1.0 if confidence is None and verdict.is_proven else confidence,
        "reasons": list(verdict.reasons),
        "proof": list(verdict.proof),
        "degraded": list(verdict.degraded),
    }


def _describe_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "cause": diagnosis.cause,
        "title": diagnosis.title,
        "summary": diagnosis.summary,
        "culprit": None if diagnosis.culprit is None else _fields(diagnosis.culprit),
        "status": diagnosis.status.value,
        "confidence": diagnosis.confidence,
        "evidence": [{"statement": one.statement, "source": one.source} for one in diagnosis.evidence],
        "alternatives": list(diagnosis.alternatives),
        "refuted_by": diagnosis.refuted_by,
    }


def _describe_remedies(incident: Incident) -> list[dict[str, Any]]:
    tried = {outcome.remedy.id for outcome in incident.outcomes}
    untried = [RemedyOutcome(remedy, applied=False) for remedy in incident.diagnosis.remedies if remedy.id not in tried]
    return [
        {
            "id": outcome.remedy.id,
            "kind": outcome.remedy.kind,
            "why": outcome.remedy.why,
            "change": _describe_change(outcome.remedy),
            "advice": outcome.remedy.advice,
            "applied": outcome.applied,
            "result": outcome.result,
            "undo": outcome.undo,
            "worked": outcome.worked,
        }
        for outcome in (*incident.outcomes, *untried)
    ]


def _describe_change(remedy: Remedy) -> list[str]:
    """Return what a remedy changes as commands that a person could type."""
    lines = [
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}" for name, value in remedy.environment.items()
    ]
    lines += [f"export {name}={shlex.quote(entry)}${{{name}:+:${name}}}" for name, entry in remedy.prepend_path.items()]
    lines += [f"mkdir -p {shlex.quote(path)}" for path in remedy.make_directories]
    return lines + [f"mv {shlex.quote(path)} {shlex.quote(path + '.quarantined')}" for path in remedy.quarantine]


def _list_next_steps(incident: Incident) -> list[str]:
    if incident.verdict.state is not State.HUNG:  # evidence that was asked for: there is nothing to mend
        return []
    remedies = [outcome.remedy for outcome in incident.outcomes] + list(incident.diagnosis.remedies)
    # What was done to the living job and helped is not to be done again by hand.
    done = {outcome.remedy.id for outcome in incident.outcomes if outcome.worked and outcome.remedy.kind == "live"}
    steps = list(dict.fromkeys(remedy.advice for remedy in remedies if remedy.advice and remedy.id not in done))
    if not steps and not any(outcome.applied for outcome in incident.outcomes):
        steps = ["Look at the stack of the culprit below, and at what it waits for."]
        if incident.diagnosis.refuted_by:
            steps.append(f"To refute this diagnosis: {incident.diagnosis.refuted_by}")
    return steps


def _describe_processes(evidence: Evidence, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ranks = find_ranks(evidence.processes)
    stacks = {(member["pid"], member["tid"]): group["id"] for group in groups for member in group["members"]}
    return [_describe_process(process, depth, ranks.get(process.ref.pid), stacks) for process, depth in _walk(evidence.processes)]


def _describe_process(
    process: ProcessEvidence, depth: int, rank: int | None, stacks: Mapping[tuple[int, int], int]
) -> dict[str, Any]:
    main = process.main_thread
    return {
        "pid": process.ref.pid,
        "ppid": process.ppid,
        "depth": depth,
        "rank": rank,
        "command": None if process.command is None else list(process.command),
        "executable": process.executable,
        "cwd": process.cwd,
        "python": process.python_version,
        "state": process.state,
        "wait": main and (main.wait or main.wait_channel or None),
        "threads": len(process.threads),
        "stack": main and stacks.get((process.ref.pid, main.tid)),
        "stack_method": process.stack_method,
        "missing": list(process.missing),
        "notes": list(process.notes),
    }


def _walk(processes: Sequence[ProcessEvidence]) -> list[tuple[ProcessEvidence, int]]:
    """Return the tree depth first, orphans at the top, each with its depth."""
    known = {process.ref.pid for process in processes}
    children: dict[int, list[ProcessEvidence]] = {}
    for process in processes:
        children.setdefault(process.ppid if process.ppid in known and process.ppid != process.ref.pid else 0, []).append(process)
    ordered: list[tuple[ProcessEvidence, int]] = []
    waiting = [(process, 0) for process in reversed(children.get(0, []))]
    while waiting:
        process, depth = waiting.pop()
        ordered.append((process, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(process.ref.pid, []))]
    return ordered


def _list_missing(evidence: Evidence) -> list[str]:
    return [
        *evidence.missing,
        *(f"PID {process.ref.pid}: {phrase}" for process in evidence.processes for phrase in process.missing),
    ]


def _fields(culprit: Culprit) -> dict[str, Any]:
    return {name: getattr(culprit, name) for name in culprit.__struct_fields__}
