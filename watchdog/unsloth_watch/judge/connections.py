"""Bytes over TCP connections: a steady flow on one of them is data that moves; keep-alives, telemetry and heartbeats are not.

Each direction of each connection has a meter of its own: a transfer goes one way, and a conversation of requests and answers
must not count double. One look counts for a third of the quota at most, beside what leaked while the sensor rested: a burst,
however large, is no flow.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unsloth_watch.judge.meter import Meter
from unsloth_watch.judge.quantity import format_size
from unsloth_watch.judge.rules import (
    CONNECTION_BURST,
    CONNECTION_BYTES_PER_S,
    CONNECTION_LEAK,
    CONNECTION_REST_S,
    INSIDE_BYTES_PER_S,
    Rules,
)
from unsloth_watch.model.sample import ConnectionSample
from unsloth_watch.model.verdict import Progress, Tier


class Flow(msgspec.Struct, frozen=True):
    """One direction of a connection.

    Attributes:
        moved: Bytes moved when last seen to move.
        at: When that was, effective seconds.
        arrears: What may be added beside a burst, as it leaked while the sensor rested, bytes as of ``at``.
        meter: What came together since the last progress by it.
    """

    moved: int
    at: float
    arrears: float = 0.0
    meter: Meter = Meter()


Flows = Mapping[int, tuple[Flow, Flow]]
"""Received and sent, by the inode of the connection."""


def weigh_connections(
    flows: Flows, connections: tuple[ConnectionSample, ...], rules: Rules, *, since: float, at: float
) -> tuple[Flows, list[Progress]]:
    """Return the flows after these readings, and the progress that they show.

    Args:
        flows: From the previous sample.
        connections: As read now; those that are gone are forgotten.
        rules: For the window.
        since: When the previous sample was taken, effective seconds.
        at: Now, effective seconds.
    """
    window_s, seconds = rules.connection_s, at - since
    outside, inside = (_measure_limits(rate, window_s, seconds) for rate in (CONNECTION_BYTES_PER_S, INSIDE_BYTES_PER_S))
    after: dict[int, tuple[Flow, Flow]] = {}
    credit, peer = 0.0, ""
    for one in connections:
        before = flows.get(one.inode)
        if before is None:
            after[one.inode] = Flow(one.received, at), Flow(one.sent, at)
            continue
        limits = inside if one.is_inside else outside
        received, sum_received = _weigh(before[0], one.received, limits, at)
        sent, sum_sent = _weigh(before[1], one.sent, limits, at)
        after[one.inode] = received, sent
        if sum_received > credit or sum_sent > credit:
            credit, peer = max(sum_received, sum_sent), one.peer
    if not credit:
        return after, []
    return after, [Progress(at, Tier.DATA, "connection", f"at least {format_size(credit)} over the connection with {peer}")]


class _Limits(msgspec.Struct, frozen=True):
    """What a direction of a connection is measured by: the meter's leak and quota, the most of a burst, and the most of arrears."""

    leak_per_s: float
    quota: float
    burst: float
    arrears: float


def _measure_limits(rate: float, window_s: float, seconds: float) -> _Limits:
    leak_per_s, quota = CONNECTION_LEAK * rate, (1 - CONNECTION_LEAK) * rate * window_s
    # Where looks are rarer than thrice in the window, each stands for its own share of it.
    return _Limits(
        leak_per_s, quota, quota * max(CONNECTION_BURST, seconds / window_s), leak_per_s * max(CONNECTION_REST_S, seconds)
    )


def _weigh(flow: Flow, moved: int, limits: _Limits, at: float) -> tuple[Flow, float]:
    """Return a direction after a reading, and the bytes that count; 0 while they do not.

    Between two questions of the sensor the last answer stands: what seems to come at once came over the time since, and is spared
    the leak of that time.
    """
    if moved <= flow.moved:
        return flow, 0.0  # still: a meter leaks by itself
    arrears = min(limits.arrears, flow.arrears + limits.leak_per_s * (at - flow.at))
    amount = min(moved - flow.moved, limits.burst + arrears)
    meter, credit = flow.meter.add(at, amount, leak_per_s=limits.leak_per_s, quota=limits.quota)
    return Flow(moved, at, max(0.0, arrears - amount), meter), credit
