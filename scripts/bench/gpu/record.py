"""Records what NVML answers to our own questions, in states that a training job goes through: test data for machines without a GPU.

    python record.py OUT.json.gz [STATE]...

States: ``idle``, nobody there; ``held``, a context with memory; ``duty``, a matrix product at 10 % duty; ``spin``, a kernel that
never ends; ``fault``, a kernel that touches an address that is not its own, which the driver reports as Xid 31 and which ends that
process alone. Needs torch and cupy.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

from unsloth_watch.capture.devices import read_devices
from unsloth_watch.capture.kernel import read_kernel_log
from unsloth_watch.sense.nvidia import Pynvml

READINGS = 5
SECONDS_APART = 1.0
STATES = {
    "idle": "",
    "held": "import torch; x = torch.zeros(1 << 30, dtype=torch.uint8, device='cuda'); torch.cuda.synchronize(); ready(); wait()",
    "duty": """
import torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
a @ a; torch.cuda.synchronize(); ready()
while True:
    for _ in range(7): a @ a
    torch.cuda.synchronize(); time.sleep(0.1)
""",
    "spin": r"""
import cupy
kernel = cupy.RawKernel('extern "C" __global__ void spin(volatile int* flag) { while (*flag == 0) {} }', "spin")
flag = cupy.zeros(1, dtype=cupy.int32)
kernel((8,), (128,), (flag,)); ready(); wait()
""",
    "fault": r"""
import cupy
kernel = cupy.RawKernel('extern "C" __global__ void poke(int* address) { address[1L << 36] = 1; }', "poke")
flag = cupy.zeros(1, dtype=cupy.int32)
ready()
try:
    kernel((1,), (1,), (flag,)); cupy.cuda.runtime.deviceSynchronize()
except Exception as error:
    print(error, flush=True)
wait()
""",
}
HEAD = "import sys, time\ndef ready(): print('ready', flush=True)\ndef wait(): sys.stdin.read()\n"


class Recorder:
    """NVML's binding that notes each question with its answer."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._handles: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(pynvml, name)
        return self._noting(name, value) if name.startswith("nvml") and callable(value) else value

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            note: dict[str, Any] = {"call": name, "arguments": [self._plain(argument) for argument in arguments]}
            self.calls.append(note)
            try:
                answer = call(*arguments)
            except pynvml.NVMLError as error:
                note["error"] = error.value
                raise
            note["answer"] = self._plain(answer, name)
            if name == "nvmlGpmMetricsGet":
                note["metrics"] = [arguments[0].metrics[place].value for place in range(arguments[0].numMetrics)]
            return answer

        return ask

    def _plain(self, value: Any, name: str = "") -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple, ctypes.Array)):
            return [self._plain(item) for item in value]
        if isinstance(value, ctypes._Pointer):
            place = ctypes.cast(value, ctypes.c_void_p).value or 0
            return {"handle": self._handles.setdefault(place, f"{name or 'handle'}-{len(self._handles)}")}
        names = [field[0] for field in getattr(value, "_fields_", ())] or list(vars(value))
        return {field: self._plain(getattr(value, field)) for field in names if not field.startswith("_")}


def record(state: str) -> dict[str, Any]:
    """Return the calls of some readings and of the whole record, in one state."""
    recorder = Recorder()
    sense = Pynvml(recorder)
    sense.open()
    child = None
    if STATES[state]:
        child = subprocess.Popen([sys.executable, "-c", HEAD + STATES[state]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
    readings = []
    costs = []
    for number in range(READINGS):
        time.sleep(SECONDS_APART)
        began = time.thread_time(), time.monotonic()
        readings.append(sense.read(0, (), asks_slowly=number == 0, asks_owners=number % 2 == 0))
        costs.append((time.thread_time() - began[0], time.monotonic() - began[1]))
    log, why = read_kernel_log([child.pid] if child else [])
    began = time.monotonic()
    devices = read_devices(log, recorder)
    seconds = time.monotonic() - began
    if child is not None:
        child.kill()
        child.communicate()
    sense.close()
    print(
        f"{state}: {readings[-1]}\n  costs (CPU s, s) {costs}\n  record in {seconds:.3f} s {devices}\n  log {log} {why}", flush=True
    )
    return {
        "pid": child.pid if child else None,
        "calls": recorder.calls,
        "log": list(log),
        "costs": costs,
        "record_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("states", nargs="*", default=list(STATES))
    options = parser.parse_args()
    states = {state: record(state) for state in options.states}
    with gzip.open(options.out, "wt") as file:
        json.dump({"kernel": os.uname().release, "states": states}, file)
    print(Path(options.out).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
