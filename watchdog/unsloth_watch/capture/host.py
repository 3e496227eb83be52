"""Facts about the machine and the control group that a hang may come from; what is unreadable is left out."""

from __future__ import annotations

import os

from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file

_CGROUPS = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60
# cgroup v1 writes 2**63 rounded down to a page for "no limit"


def read_host(pid: int | None) -> dict[str, str]:
    """Return facts by name: bytes as decimal numbers, pressure as the kernel's ``some`` line.

    Args:
        pid: A process of the job, whose control group is read; None for ours.
    """
    facts = {"kernel": os.uname().release, "machine": os.uname().machine, "cpus": str(os.cpu_count() or "?")}
    facts["cpus_usable"] = str(len(os.sched_getaffinity(0)))
    facts.update(_read_memory())
    load = _read_text("/proc/loadavg")
    if load is not None:
        facts["load"] = " ".join(load.split()[:3])
    for resource in ("cpu", "memory", "io"):
        pressure = _read_text(f"/proc/pressure/{resource}")
        if pressure:
            facts[f"pressure_{resource}"] = pressure.splitlines()[0].removeprefix("some ")
    facts.update(_read_shm())
    facts.update(read_cgroup(_read_text(f"/proc/{pid or 'self'}/cgroup") or ""))
    return facts


def _read_text(path: str) -> str | None:
    try:
        return decode(read_file(path)).strip()
    except OSError:
        return None


def _read_memory() -> dict[str, str]:
    names = {"MemTotal": "memory_total", "MemAvailable": "memory_available", "SwapTotal": "swap_total", "SwapFree": "swap_free"}
    facts = {}
    for line in (_read_text("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if name in names and number and number[0].isdecimal():
            facts[names[name]] = str(int(number[0]) * 1024)
    return facts


def _read_shm() -> dict[str, str]:
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - asked for its size only: DataLoader workers die of a small one
    except OSError:
        return {}
    return {"shm_total": str(status.f_blocks * status.f_frsize), "shm_free": str(status.f_bavail * status.f_frsize)}


def read_cgroup(membership: str, base: str = _CGROUPS) -> dict[str, str]:
    """Return limit, use and out-of-memory kills of the memory control group, version 2 or 1.

    Args:
        membership: Content of ``/proc/PID/cgroup``.
        base: Where the control groups are mounted.
    """
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "memory":
            folder = _find_folder(f"{base}/memory", path, "memory.limit_in_bytes")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        elif not controllers:
            folder = _find_folder(base, path, "memory.max")
            names = ("memory.max", "memory.current", "memory.events")
        else:
            continue
        if folder is not None:
            return _read_limits(folder, names)
    return {}


def _find_folder(base: str, path: str, name: str) -> str | None:
    """Return the group's folder; inside a container its path may be that of the host, and the mount is then the group itself."""
    folders = (os.path.normpath(base + path), base)
    return next((folder for folder in folders if os.path.exists(f"{folder}/{name}")), None)


def _read_limits(folder: str, names: tuple[str, str, str]) -> dict[str, str]:
    limit, use, events = (_read_text(f"{folder}/{name}") for name in names)
    facts = {}
    if limit is not None:
        is_unlimited = not limit.isdecimal() or int(limit) >= _UNLIMITED
        facts["cgroup_memory_limit"] = "unlimited" if is_unlimited else limit
    if use is not None and use.isdecimal():
        facts["cgroup_memory_used"] = use
    for line in (events or "").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            facts["cgroup_oom_kills"] = count
    return facts
