"""NVML as it answered on an H100: the recorded calls played back, for the real readers to ask.

A call is found by its name and its plain arguments; its answers come in their order, the last one for ever after. What was never
asked on the real card cannot be asked here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

DATA = Path(__file__).parent / "data" / "gpu"
Question = tuple[str, str]


def read_recording(name: str) -> dict[str, Any]:
    """Return the states of a recording: for each its calls, the PID of its process, the lines of the kernel's log."""
    with gzip.open(DATA / f"{name}.json.gz", "rt") as file:
        return json.load(file)["states"]  # type: ignore[no-any-return]


class Replay:
    """NVML's binding over recorded calls.

    Args:
        calls: As ``scripts/bench/gpu/record.py`` noted them.
        faults: Number of the error with which a call fails instead, by its name; changed at will.
    """

    def __init__(self, calls: list[dict[str, Any]], faults: dict[str, int] | None = None) -> None:
        self._answers: dict[Question, list[dict[str, Any]]] = {}
        self.faults = faults if faults is not None else {}
        self.asked: list[str] = []
        for call in calls:
            self._answers.setdefault(_question(call["call"], call["arguments"]), []).append(call)

    def __getattr__(self, name: str) -> Any:
        value = getattr(pynvml, name)
        return self._answering(name) if name.startswith("nvml") and callable(value) else value

    def _answering(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any) -> Any:
            self.asked.append(name)
            if name in self.faults:
                raise pynvml.NVMLError(self.faults[name])
            found = self._answers.get(_question(name, arguments))
            assert found, f"{name}{arguments} was never asked on the real card"
            call = found.pop(0) if len(found) > 1 else found[0]
            if "error" in call:
                raise pynvml.NVMLError(call["error"])
            for place, value in enumerate(call.get("metrics", ())):
                arguments[0].metrics[place].value = value
            # GPM's own functions want a real pointer, wherever it points.
            return pynvml.c_nvmlGpmSample_t() if name == "nvmlGpmSampleAlloc" else _live(call["answer"])

        return answer


def _question(name: str, arguments: Any) -> Question:
    """Return what tells one question from another: handles, structures and time stamps do not."""
    if name == "nvmlDeviceGetProcessUtilization":
        return name, ""
    return name, repr([argument for argument in arguments if isinstance(argument, (int, str, list)) and argument is not None])


def _live(value: Any) -> Any:
    """Return a recorded answer with its fields as attributes, as the binding's structures have them."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _live(item) for name, item in value.items()})
    return [_live(item) for item in value] if isinstance(value, list) else value
