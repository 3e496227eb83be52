"""The thresholds of the judge, each with the figure that set it; every window is a fraction of the stall timeout."""

from __future__ import annotations

import msgspec

COMPUTING_CORE = 0.10
"""Share of one core above which a process computes. Poll and retry loops were measured at 1–5 % (the unbounded import loop of
unsloth_zoo 2025.3.1: 3.5 %), every healthy phase of the recorded H100 runs kept a core at 90 % or more."""
COMPUTING_TREE = 0.50
"""Share of a core that the tree burns together, for many workers that are each below ``COMPUTING_CORE``."""
LEAK = 0.25
"""Share of a rate that never counts, however long it lasts: a log line now and then adds up to nothing."""
FILE_BYTES_PER_S = 1024.0
"""New ground in files: a slow download is some kB/s, a heartbeat line a second is some 20 B/s."""
STORAGE_BYTES_PER_S = 64 * 1024.0
"""Bytes from and to storage: a status file of 4 KiB rewritten each second dirties 4 KiB/s."""
LEAST_SHARE = 0.3
"""Least share of a core by which the rates of effort are scaled down on a crowded machine. With six to eight runnable threads on
two cores a job of 15 % duty got 3.8 % of one, a poll loop of 3.5 % got 3.0 and a monitor of 3 % got 2.0."""
STARVED_SHARE = 0.05
"""The same where more than the rate says that there is work: a process that computes each time it wakes, or a tree in which
somebody wants to run at every look. With fifty runnable threads on two cores that job of 15 % duty got 1 to 3 % of one, at a share
of 2 to 8 %, and a chain of compilers 12 % in all, at 6 to 15 %."""
MOST_CROWDING = 3.0
"""Factor by which the limits grow at most where a thread gets less than ``LEAST_SHARE``, and CPU no longer tells work from polls:
with sixteen runnable threads on two cores that job got 3 %."""
WAKEUP_CPU_S = 0.004
"""CPU seconds between two sleeps from which a process works and does not poll: 19 ms in that job, 0.4 in that loop, 2 in that
monitor. Only who works is scaled for: a poll loop must not come to count as work because the machine is crowded."""
POLLING_CORE = 0.30
"""Share of a core that a process must burn to compute where it polls files: small reads many times a second, with a sleep between
them and none on new ground. The import loop above took 3.5 % on one host and 6 % on a loaded one; a slow host takes more."""
POLLING_CALLS_PER_S = 20.0
"""Read calls a second from which a process that sleeps as often polls (the import loop: 180)."""
POLLING_BYTES = 4096.0
"""Bytes a read at most, on average, in a poll (the import loop: 70 to 100)."""
VOLUME_BYTES_PER_S = 4 * 1024 * 1024.0
"""Bytes through read and write calls that count as effort: the retry loop above re-reads 12 KiB/s."""
STREAM_BYTES_PER_S = 16 * 1024.0
"""Bytes through read and write calls of a process that waits on a pipe or a slow file, which have no counter of their own. psutil
reads 30 KB for all 208 cores of a large host each time; libraries that do so in the process itself do it every 10 to 15 s."""
STREAM_CALL_BYTES = 1024.0
"""Bytes a read call at least, on average, in such a stream: import and poll loops read 70 to 100 at a time."""
CONNECTION_BYTES_PER_S = 1024.0
"""Steady bytes in one direction of one TCP connection: a trickle of 3 kB/s is a download; a keep-alive moves some 10 B/s, telemetry
of wandb's kind 4 KB every half minute, and one that is sent every two seconds 500 B/s each way."""
CONNECTION_LEAK = 0.65
"""The same as ``LEAK`` for connections: telemetry adds up to 500 B/s. With the default timeout, bursts of any size then add up only
where they are less than 10 s apart; metrics are sent every 10 s (mlflow) or 15 s (wandb)."""
CONNECTION_REST_S = 2.0
"""Seconds for which one look at connections may stand: the sensor asks the kernel every 1.9 s."""
CONNECTION_BURST = 1 / 3
"""Share of a connection's quota that one look may add: a message of telemetry is one burst, a transfer shows in every look."""
INSIDE_BYTES_PER_S = 64 * 1024.0
"""The same for a connection between two processes of the job: a rank that polls a store a hundred times a second for a key moves
12 KB/s and gets nowhere, one that exchanges gradients moves megabytes."""
RECEIPTS_PER_S = 5.0
"""Wakes a second of a thread that takes data which nobody counts: 3 kB/s in pieces of 300 bytes wake it 10 times, 640 KiB/s in
pieces of 64 KiB 10 times, UDP of 58 KiB/s 50 times; a heartbeat a second once, or twice where its header comes first."""
RECEIPT_LEAK = 0.65
"""The same as ``LEAK`` for them: up to 3.25 wakes a second never add up."""
SENT_WAKES = 5.0
"""Wakes for which one of a thread stands that waits to send: the kernel wakes it when a good part of what it sent was taken. One
that sends all it can to a reader of 130 kB/s woke 2.2 times a second, and a heartbeat never fills a socket (208 KiB)."""
CLOCKED_WAKES = 3.0
"""Wakes that one time limit which runs out explains, of a thread that has one. The service process of wandb 0.31 at rest (Go, a
ticker of 100 ms) waits in epoll for 99 ms at most, and two of its threads, that hand over to each other, wake 17 times a second."""
SHORTEST_FLOW_S = 6.0
"""Shortest window of a connection's flow, seconds: three looks at 1 Hz with one late, or at the longest rest of the sensor."""
MEMORY_BYTES = 8 * 1024 * 1024
"""Growth of a resident set beyond its highest mark: allocators breathe by less."""
LATE_LOOKS = 40
"""Looks that would fit into a busy timeout, half of which are taken in its second half: the rule for loops wants a dozen."""
LONGEST_EFFORT_S = 120.0
"""Longest window of rates, seconds: a day's stall timeout must not keep hours of samples."""
SHORT_EFFORT_S = 3.0
"""Seconds at the end of the effort window that must show the effort too: three samples at 1 Hz. Over the window alone (30 s with
the default timeout) a job that stands still would count as computing for 27 s more."""
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
GPU_FLOOR_FACTOR = 2.0
"""Multiple of the DRAM and tensor activity that this host's device shows at rest: a screen or a monitor always uses about the
same."""
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
MOST_BURST = 3
"""Looks at most in one burst, between two samples: at short timeouts a look a second would bring a closed set too late."""
BURST_LOOKS = 4
"""Stacks at most in one burst, all processes together: 10 ms of CPU each, 4 % of a core at a burst a second."""
CLOSED_SET_STACKS = 3
"""Most different stacks of a closed set; a bare loop shows one or two, a forward pass on the CPU dozens."""
MOST_SHAPES = 4096
"""Line shapes that are remembered; later ones are no news."""
MOST_COUNTERS = 4096
"""Counters that are remembered: a log that names another file in each line makes one a line, 300 bytes each, for weeks."""


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
    def connection_s(self) -> float:
        """Window within which a connection must move its quota, seconds."""
        return max(SHORTEST_FLOW_S, self.meter_s)

    @property
    def effort_s(self) -> float:
        """Window over which CPU and I/O rates are taken, seconds: long enough for three samples at 1 Hz, and bounded in memory."""
        return min(max(SHORT_EFFORT_S, self.stall_s / 6), LONGEST_EFFORT_S)

    @property
    def look_after_s(self) -> float:
        """Quiet seconds before the first look at stacks."""
        return min(max(3.0, self.stall_s / 50), self.stall_s / 3)

    @property
    def look_apart_s(self) -> float:
        """Seconds between looks while a rhythm is broken: within twice the stall timeout several times what a closed set needs."""
        return self.stall_s / 30

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
