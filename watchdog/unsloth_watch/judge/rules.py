"""The thresholds of the judge, each with the figure that set it; every window is a fraction of the stall timeout."""

from __future__ import annotations

import msgspec

COMPUTING_CORE = 0.10
"""Share of one core above which a process computes. Poll and retry loops were measured at 1–5 % (the unbounded import loop of
unsloth_zoo 2025.3.1: 3.5 %), every healthy phase of the recorded H100 runs kept a core at 90 % or more."""
COMPUTING_TREE = 0.50
"""Share of a core that the tree burns together, for many workers that are each below ``COMPUTING_CORE``."""
FILE_BYTES_PER_S = 1024.0
"""New ground in files: a slow download is some kB/s, a heartbeat line a second is some 20 B/s."""
STORAGE_BYTES_PER_S = 64 * 1024.0
"""Bytes from and to storage: a status file of 4 KiB rewritten each second dirties 4 KiB/s."""
POLLING_CORE = 0.30
"""Share of a core that a process must burn to compute where it polls files: small reads many times a second, with a sleep between
them and none on new ground. The import loop above took 3.5 % on one host and 6 % on a loaded one; a slow host takes more."""
POLLING_CALLS_PER_S = 20.0
"""Read calls a second from which a process that sleeps as often polls (the import loop: 180)."""
POLLING_BYTES = 4096.0
"""Bytes a read at most, on average, in a poll (the import loop: 70 to 100)."""
VOLUME_BYTES_PER_S = 4 * 1024 * 1024.0
"""Bytes through read and write calls that count as effort: the retry loop above re-reads 12 KiB/s."""
MEMORY_BYTES = 8 * 1024 * 1024
"""Growth of a resident set beyond its highest mark: allocators breathe by less."""
FAULTS_PER_S = 200.0
"""Page faults that count as effort: healthy phases fault 385–29,000 times a second, recorded hangs never."""
CHILD_CPU_S = 0.5
"""CPU seconds after which a child that ends was work, not a poll (a 20 ms command in a loop)."""
GPU_TRAFFIC_PERCENT = 0.1
"""DRAM or tensor activity above which a device moves data: hung 0.001 %, LoRA steps 0.5–2.7 % (H100)."""
GPU_PCIE_BYTES_PER_S = 4e6
"""PCIe traffic that counts: 0.3–0.9 MB/s while hung, 54 MB/s in tiny training (H100)."""
GPU_PCIE_FLOOR_FACTOR = 5.0
"""Multiple of this host's learned PCIe floor that counts as traffic."""
GPU_BUSY_PERCENT = 20.0
"""Utilisation that counts as effort (never as progress): a kernel that never ends shows 100 %."""
CADENCE_INTERVALS = 3
"""Advances of a counter before its rhythm is believed."""
WARM_UP_ADVANCES = 2
"""Advances of a counter that say nothing of its rhythm: the first step compiles for 15–28 s where later ones take 0.5 (H100)."""
CADENCE_FACTOR = 5.0
"""Multiple of the slowest interval known after which a rhythm counts as broken."""
CLOSED_SET_LOOKS = 12
"""Looks at the stacks before a closed set of them is believed."""
CLOSED_SET_STACKS = 3
"""Most different stacks of a closed set; a bare loop shows one or two, a forward pass on the CPU dozens."""
MOST_SHAPES = 4096
"""Line shapes that are remembered; later ones are no news."""


class Rules(msgspec.Struct, frozen=True):
    """What the user chose; the rest follows.

    Attributes:
        stall_s: Stall timeout, seconds.
        busy_s: Busy timeout, seconds.
    """

    stall_s: float = 180.0
    busy_s: float = 1800.0

    @property
    def meter_s(self) -> float:
        """Seconds of steady flow that a data meter asks for before it counts."""
        return self.stall_s / 4

    @property
    def effort_s(self) -> float:
        """Window over which CPU and I/O rates are taken, seconds: long enough for three samples at 1 Hz."""
        return max(3.0, self.stall_s / 6)

    @property
    def look_after_s(self) -> float:
        """Quiet seconds before the first look at stacks."""
        return min(max(3.0, self.stall_s / 50), self.stall_s / 3)

    @property
    def suspect_after_s(self) -> float:
        """Quiet seconds before the job counts as suspected."""
        return min(max(3.0, self.stall_s / 10), self.stall_s / 3)

    @property
    def churn_s(self) -> float:
        """Limit for a job that only pages or ends children, seconds: more than CPU alone, and not for ever."""
        return 4 * self.busy_s

    @property
    def rhythm_s(self) -> float:
        """Shortest break of a rhythm that is believed, seconds."""
        return self.stall_s / 12
