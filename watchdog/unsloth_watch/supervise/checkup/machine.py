"""The machine: stacks, GPU, limits, shared memory, standard input, and space for the records."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator, Mapping

from unsloth_watch.capture.deadline import DeadlineError, within
from unsloth_watch.capture.host import read_host
from unsloth_watch.capture.mount import read_free
from unsloth_watch.capture.permission import check_trace
from unsloth_watch.capture.writeprobe import probe_write, read_identity
from unsloth_watch.model.checkup import Finding, Level
from unsloth_watch.model.release import is_within
from unsloth_watch.sense.nvidia import Pynvml
from unsloth_watch.sense.nvml import Fault, NvmlError
from unsloth_watch.supervise.checkup.scene import Scene
from unsloth_watch.tell.directory import find_base
from unsloth_watch.tell.quantity import format_quantity

_NVML_S = 10.0
_NOFILE = 4096
"""DataLoader workers pass tensors by descriptors; 1024, the usual soft limit, ends in "too many open files" with many workers."""
_SHM = 1 << 30
"""Containers have 64 MiB unless told otherwise, of which a few batches of images fill each."""
_SHM_PLACE = "/dev/shm"  # noqa: S108 - only asked for its size
_HEADROOM = 1 << 30
_STATE = 256 << 20
_DRIVERS = (("12", "525.60"), ("13", "580.65"))
"""Oldest driver by CUDA's major version, from NVIDIA's table of minor version compatibility."""


def check_machine(scene: Scene) -> Iterator[Finding]:
    """Yield everything that does not depend on the command's libraries."""
    yield from _check_trace()
    yield from _check_gpu(scene)
    yield from _check_limits()
    yield from _check_memory(read_host(None))
    yield from _check_stdin()
    yield from _check_state(scene.environment)


def _check_trace() -> Iterator[Finding]:
    problem = check_trace()
    if problem is None:
        yield Finding("machine", "stacks", Level.FINE, "stacks of the job can be read")
    else:
        state, _, mend = problem.rpartition("; ")
        yield Finding("machine", "stacks", Level.WARNING, state or problem, "a hang would be reported without its stacks", mend)


def _check_gpu(scene: Scene) -> Iterator[Finding]:
    if not os.path.exists("/dev/nvidiactl"):
        yield Finding("machine", "GPU", Level.FINE, "no NVIDIA device here")
        return
    driver = _read_driver()
    try:
        count = within(_NVML_S, _count_gpus)
    except NvmlError as error:
        mend = {
            Fault.LOST: "reset the device or reboot",
            Fault.DETACHED: "restart the container: systemctl daemon-reload took the device from it",
        }.get(error.fault, "install the driver's libraries, or start the container with --gpus all")
        yield Finding("machine", "GPU", Level.ERROR, f"NVML: {error}", "the job cannot use the GPU", mend)
        return
    except DeadlineError as error:
        yield Finding(
            "machine", "GPU", Level.ERROR, f"NVML: {error}", "the driver hangs, and so would the job", "reboot the machine"
        )
        return
    yield Finding("machine", "GPU", Level.FINE, f"{count} device{'s' if count != 1 else ''}, driver {driver or 'unknown'}")
    major = scene.versions.get("torch", "").partition("+cu")[2][:2]
    oldest = dict(_DRIVERS).get(major)
    if oldest is not None and is_within(driver, f"<{oldest}"):
        yield Finding(
            "machine", "driver", Level.ERROR, f"driver {driver}", f"torch {scene.versions['torch']} needs {oldest} or newer",
            "update the driver, or install torch for an older CUDA", "/sys/module/nvidia/version",
        )  # fmt: skip


def _count_gpus() -> int:
    gpus = Pynvml()
    try:
        return len(gpus.open())
    finally:
        gpus.close()


def _read_driver() -> str | None:
    try:
        with open("/sys/module/nvidia/version", encoding="ascii", errors="replace") as file:
            return file.read().strip() or None
    except OSError:
        return None


def _check_limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_low = soft != resource.RLIM_INFINITY and soft < _NOFILE
    yield Finding(
        "machine", "open files", Level.WARNING if is_low else Level.FINE, f"at most {_limit(soft)} open files",
        "DataLoader workers pass tensors as descriptors" if is_low else "",
        f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}" if is_low else "", "ulimit -n",
    )  # fmt: skip
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    has_fabric = os.path.isdir("/sys/class/infiniband") and bool(os.listdir("/sys/class/infiniband"))
    is_tight = has_fabric and locked != resource.RLIM_INFINITY
    yield Finding(
        "machine", "locked memory", Level.WARNING if is_tight else Level.FINE,
        "no limit" if locked == resource.RLIM_INFINITY else f"at most {format_quantity(locked, 'B')} of locked memory",
        "NCCL over InfiniBand locks its buffers" if is_tight else "", "ulimit -l unlimited" if is_tight else "", "ulimit -l",
    )  # fmt: skip


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _check_memory(host: Mapping[str, str]) -> Iterator[Finding]:
    total, free = host.get("shm_total"), host.get("shm_free")
    if total is None or free is None:
        yield Finding("machine", _SHM_PLACE, Level.WARNING, "not there", "DataLoader workers need it", "mount a tmpfs there")
    else:
        is_small = int(total) < _SHM or int(free) < _SHM // 8
        yield Finding(
            "machine", _SHM_PLACE, Level.WARNING if is_small else Level.FINE,
            f"{format_quantity(int(free), 'B')} of {format_quantity(int(total), 'B')} free",
            "DataLoader workers die of a bus error when it is full" if is_small else "",
            "docker run --shm-size=8g, or --ipc=host" if is_small else "",
        )  # fmt: skip
    limit, used = host.get("cgroup_memory_limit", "unlimited"), host.get("cgroup_memory_used")
    is_limited = limit.isdecimal() and used is not None
    left = int(limit) - int(used) if is_limited and used is not None else int(host.get("memory_available", str(_HEADROOM)))
    source = "control group" if is_limited else "/proc/meminfo"
    is_tight = left < _HEADROOM
    yield Finding(
        "machine", "memory", Level.WARNING if is_tight else Level.FINE, f"{format_quantity(left, 'B')} left",
        "the kernel kills workers without a word when it is used up" if is_tight else "",
        "give the job more memory, or end what else uses it" if is_tight else "", source,
    )  # fmt: skip


def _check_stdin() -> Iterator[Finding]:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        yield Finding(
            "machine", "stdin", Level.WARNING, "closed", "the first file that is opened takes its place", "give it </dev/null"
        )
        return
    if not os.isatty(0):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "no terminal"
        yield Finding("machine", "stdin", Level.FINE, f"{kind}: a question would be answered by its end")
        return
    try:
        is_ahead = os.tcgetpgrp(0) == os.getpgrp()
    except OSError as error:
        is_ahead = error.errno == errno.ENOTTY
    yield Finding(
        "machine", "stdin", Level.FINE if is_ahead else Level.WARNING,
        "a terminal" if is_ahead else "a terminal, in the background",
        "" if is_ahead else "a job that asks something is stopped by SIGTTIN", "" if is_ahead else "--stdin null",
    )  # fmt: skip


def _check_state(environment: Mapping[str, str]) -> Iterator[Finding]:
    base = place = find_base(environment)
    while not os.path.isdir(place) and place != "/":
        place = os.path.dirname(place)
    own = read_identity("self")
    written = probe_write(place, own, own)
    free, _ = read_free(place)
    source = "XDG_STATE_HOME" if environment.get("XDG_STATE_HOME", "").startswith("/") else "default"
    if written.is_writable is False:
        yield Finding(
            "machine", "records", Level.ERROR, f"{base}: {written.problem}", "reports would go to the temporary directory",
            "--run-dir DIR, or XDG_STATE_HOME", source,
        )  # fmt: skip
        return
    is_tight = free is not None and free < _STATE
    space = "" if free is None else f", {format_quantity(free, 'B')} free"
    yield Finding(
        "machine", "records", Level.WARNING if is_tight else Level.FINE, f"{base}{space}",
        "output and reports of a run need some hundred MB" if is_tight else "",
        "--run-dir DIR on another disk" if is_tight else "", source,
    )  # fmt: skip
