"""The full record of every GPU at the moment of an incident: what is worth having of ``nvidia-smi -q``, and who uses the device.

Read through NVML in one go; each question stands alone, and what a card or driver does not answer is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from unsloth_watch.capture.text import decode
from unsloth_watch.model.evidence import DeviceEvidence, DeviceProcess
from unsloth_watch.model.xid import describe_xid, find_faults

Binding = Any
"""NVML's binding and what it answers: ctypes structures without types."""
_MIB = 1 << 20
_THROTTLE = "nvmlClocksThrottleReason"
_NO_REASONS = ("All", "None", "UserDefinedClocks")
_RECOVERY = {
    1: "reset the GPU",
    2: "reboot the machine",
    3: "drain peer-to-peer traffic",
    4: "drain the GPU, then reset it",
    5: "recover its IMEX domain",
    6: "reset its bus",
    7: "reboot the machine",
}
"""NVML's recovery action (NVML_GPU_RECOVERY_ACTION_…) in words; 0 is none."""


def has_nvidia() -> bool:
    """Return whether there is a driver to ask."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")


def read_devices(kernel_log: Sequence[str], binding: Binding = None) -> tuple[DeviceEvidence, ...]:
    """Return the record of each NVIDIA GPU; empty without any. May block as long as the driver does: call it with a deadline.

    Args:
        kernel_log: Lines of the kernel's log, for the Xid faults of each device.
        binding: NVML's binding; None imports ``pynvml``.

    Raises:
        Exception: NVML cannot be opened; its own words say why.
    """
    if binding is None:
        if not has_nvidia():
            return ()
        import pynvml  # noqa: PLC0415 - only where there is a GPU

        binding = pynvml
    binding.nvmlInit()
    try:
        handles = [binding.nvmlDeviceGetHandleByIndex(index) for index in range(binding.nvmlDeviceGetCount())]
        return tuple(_Record(binding, handle, index).read(kernel_log) for index, handle in enumerate(handles))
    finally:
        # Counted: the sense has the library open too, and keeps it.
        binding.nvmlShutdown()


class _Record:
    """The questions to one device."""

    def __init__(self, binding: Binding, handle: object, index: int) -> None:
        self._nv = binding
        self._handle = handle
        self._index = index

    def read(self, kernel_log: Sequence[str]) -> DeviceEvidence:
        facts = {name: value for name, value in self._list_facts() if value}
        bus = facts.get("bus", "")
        faults = [fault for fault in find_faults(kernel_log) if bus.lower().endswith(_shorten(fault.bus))]
        return DeviceEvidence(
            index=self._index,
            uuid=_text(self._ask("nvmlDeviceGetUUID") or ""),
            facts=facts,
            processes=tuple(self._list_processes()),
            xids=tuple(fault.number for fault in faults),
            problems=(*(describe_xid(number) for number in sorted({fault.number for fault in faults})), *self._list_problems()),
        )

    def _ask(self, name: str, *arguments: object) -> Binding:
        """Return what a call answers, None where it does not."""
        try:
            return getattr(self._nv, name)(self._handle, *arguments)
        except (self._nv.NVMLError, AttributeError):
            # Not supported, not allowed, or newer than this binding: the record goes without.
            return None

    def _ask_system(self, name: str) -> Binding:
        try:
            return getattr(self._nv, name)()
        except (self._nv.NVMLError, AttributeError):
            return None

    def _list_facts(self) -> Iterator[tuple[str, str]]:
        ask = self._ask
        yield "name", _text(ask("nvmlDeviceGetName") or "")
        pci = ask("nvmlDeviceGetPciInfo")
        yield "bus", _text(pci.busId) if pci is not None else ""
        yield "driver", _text(self._ask_system("nvmlSystemGetDriverVersion") or "")
        cuda = self._ask_system("nvmlSystemGetCudaDriverVersion_v2")
        yield "cuda", f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        yield "vbios", _text(ask("nvmlDeviceGetVbiosVersion") or "")
        yield "gsp_firmware", _text(ask("nvmlDeviceGetGspFirmwareVersion") or "")
        yield "persistence", _switch(ask("nvmlDeviceGetPersistenceMode"))
        yield "compute_mode", _say(ask("nvmlDeviceGetComputeMode"), {0: "default", 2: "prohibited", 3: "exclusive process"})
        mode = ask("nvmlDeviceGetMigMode")
        yield "mig", _switch(mode[0]) if mode is not None else ""
        yield "performance_state", _unit(ask("nvmlDeviceGetPerformanceState"), "P{}")
        yield from self._list_memory()
        yield from self._list_rates()
        yield from self._list_links()
        yield from self._list_errors()

    def _list_memory(self) -> Iterator[tuple[str, str]]:
        memory, window = self._ask("nvmlDeviceGetMemoryInfo"), self._ask("nvmlDeviceGetBAR1MemoryInfo")
        if memory is not None:
            yield "memory", f"{memory.used // _MIB} of {memory.total // _MIB} MiB used"
        if window is not None:
            yield "bar1_memory", f"{window.bar1Used // _MIB} of {window.bar1Total // _MIB} MiB used"

    def _list_rates(self) -> Iterator[tuple[str, str]]:
        nv, ask = self._nv, self._ask
        rates = ask("nvmlDeviceGetUtilizationRates")
        if rates is not None:
            yield "utilization", f"{rates.gpu} %"
            yield "memory_utilization", f"{rates.memory} %"
        power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
        if power is not None:
            yield "power", f"{power / 1000:.0f}" + (f" of {limit / 1000:.0f}" if limit else "") + " W"
        yield "temperature", _unit(ask("nvmlDeviceGetTemperature", nv.NVML_TEMPERATURE_GPU), "{} °C")
        yield "slowdown_at", _unit(ask("nvmlDeviceGetTemperatureThreshold", nv.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN), "{} °C")
        for name, kind in (("sm_clock", nv.NVML_CLOCK_SM), ("memory_clock", nv.NVML_CLOCK_MEM)):
            clock, most = ask("nvmlDeviceGetClockInfo", kind), ask("nvmlDeviceGetMaxClockInfo", kind)
            yield name, f"{clock} of {most} MHz" if clock is not None and most is not None else ""
        mask = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is not None:
            names = sorted(name for name in dir(nv) if name.startswith(_THROTTLE) and not name.endswith(_NO_REASONS))
            yield "clocks_held_by", ", ".join(name[len(_THROTTLE) :] for name in names if mask & getattr(nv, name))
        yield "energy", _unit(ask("nvmlDeviceGetTotalEnergyConsumption"), "{} mJ")

    def _list_links(self) -> Iterator[tuple[str, str]]:
        ask = self._ask
        now, most = ask("nvmlDeviceGetCurrPcieLinkGeneration"), ask("nvmlDeviceGetMaxPcieLinkGeneration")
        width, widest = ask("nvmlDeviceGetCurrPcieLinkWidth"), ask("nvmlDeviceGetMaxPcieLinkWidth")
        if None not in (now, most, width, widest):
            yield "pcie", f"generation {now} of {most}, {width} of {widest} lanes"
        yield "pcie_replays", _unit(ask("nvmlDeviceGetPcieReplayCounter"), "{}")
        states = [ask("nvmlDeviceGetNvLinkState", link) for link in range(getattr(self._nv, "NVML_NVLINK_MAX_LINKS", 0))]
        if any(state is not None for state in states):
            yield "nvlinks", f"{sum(1 for state in states if state)} of {sum(1 for state in states if state is not None)} active"

    def _list_errors(self) -> Iterator[tuple[str, str]]:
        nv, ask = self._nv, self._ask
        mode = ask("nvmlDeviceGetEccMode")
        yield "ecc", _switch(mode[0]) if mode is not None else ""
        for when, scope in (("since_load", nv.NVML_VOLATILE_ECC), ("ever", nv.NVML_AGGREGATE_ECC)):
            for kind in ("CORRECTED", "UNCORRECTED"):
                count = ask("nvmlDeviceGetTotalEccErrors", getattr(nv, f"NVML_MEMORY_ERROR_TYPE_{kind}"), scope)
                yield f"ecc_{kind.lower()}_{when}", _unit(count, "{}")
        rows = ask("nvmlDeviceGetRemappedRows")
        if rows is not None:
            yield "remapped_rows", f"{rows[0]} after correctable, {rows[1]} after uncorrectable errors"
            yield "remap_pending", "yes" if rows[2] else "no"
            yield "remap_failed", "yes" if rows[3] else "no"
        yield "recovery_action", _say(self._read_recovery(), {0: "none", **_RECOVERY})

    def _read_recovery(self) -> int | None:
        """Return NVML's recovery action: what the driver itself thinks must be done."""
        field = getattr(self._nv, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = self._ask("nvmlDeviceGetFieldValues", [field]) if field is not None else None
        return int(values[0].value.uiVal) if values and values[0].nvmlReturn == 0 else None

    def _list_problems(self) -> Iterator[str]:
        """Yield what is wrong with the device, and what to do."""
        action = self._read_recovery()
        if action in _RECOVERY:
            yield f"the driver asks to {_RECOVERY[action]}"
        rows = self._ask("nvmlDeviceGetRemappedRows")
        if rows is not None and rows[2]:
            yield "bad memory waits to be replaced by spare rows: reset the GPU while nothing uses it"
        if rows is not None and rows[3]:
            yield "bad memory could not be replaced by spare rows: the card is a case for the vendor"
        mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        hot = self._nv.nvmlClocksThrottleReasonHwThermalSlowdown | self._nv.nvmlClocksThrottleReasonSwThermalSlowdown
        if mask & hot:
            yield "the clocks are held down because it is too hot: look at fans and air"
        if mask & self._nv.nvmlClocksThrottleReasonHwPowerBrakeSlowdown:
            yield "the clocks are held down by the power brake: the machine's power supply is at its limit"

    def _list_processes(self) -> Iterator[DeviceProcess]:
        for kind in ("Compute", "Graphics"):
            for entry in self._ask(f"nvmlDeviceGet{kind}RunningProcesses") or ():
                pid, used = int(entry.pid), entry.usedGpuMemory
                yield DeviceProcess(pid, _read_name(pid), None if used is None else int(used), kind.lower())


def _read_name(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return decode(file.read()).strip()
    except OSError:
        return None  # of another PID namespace, or gone


def _shorten(bus: str) -> str:
    """Return the part of a PCI address that kernel and NVML write alike: ``0000:1A:00`` against ``00000000:1A:00.0``."""
    parts = bus.lower().split(".", maxsplit=1)[0].split(":")
    return ":".join((*parts[-2:],)) + ".0"


def _unit(value: object, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


def _switch(value: object) -> str:
    return "" if value is None else "on" if value else "off"


def _say(value: int | None, words: dict[int, str]) -> str:
    return "" if value is None else words.get(value, str(value))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
