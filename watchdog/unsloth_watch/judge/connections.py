"""Bytes over TCP connections: a steady flow on one of them is data that moves; keep-alives, telemetry and heartbeats are not.

Each connection has a meter of its own, and one look counts for a third of the quota at most: a burst, however large, is no flow.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unsloth_watch.judge.meter import Meter
from unsloth_watch.judge.quantity import format_size
from unsloth_watch.judge.rules import CONNECTION_BURST, CONNECTION_BYTES_PER_S, CONNECTION_LEAK, INSIDE_BYTES_PER_S, Rules
from unsloth_watch.model.sample import ConnectionSample
from unsloth_watch.model.verdict import Progress, Tier


class Flow(msgspec.Struct, frozen=True):
    """One connection: bytes moved in both directions when last seen, and what came together since the last progress by it."""

    moved: int
    meter: Meter = Meter()


def weigh_connections(
    flows: Mapping[int, Flow], connections: tuple[ConnectionSample, ...], rules: Rules, *, since: float, at: float
) -> tuple[dict[int, Flow], list[Progress]]:
    """Return the flows after these readings, and the progress that they show.

    Args:
        flows: By inode, from the previous sample.
        connections: As read now; those that are gone are forgotten.
        rules: For the window.
        since: When the previous sample was taken, effective seconds.
        at: Now, effective seconds.
    """
    window_s = rules.connection_s
    after: dict[int, Flow] = {}
    credit, peer = 0.0, ""
    for one in connections:
        moved = one.received + one.sent
        flow = flows.get(one.inode)
        if flow is None or moved <= flow.moved:
            # New to us, or still: a meter leaks by itself.
            after[one.inode] = flow or Flow(moved)
            continue
        rate = INSIDE_BYTES_PER_S if one.is_inside else CONNECTION_BYTES_PER_S
        leak_per_s, quota = CONNECTION_LEAK * rate, (1 - CONNECTION_LEAK) * rate * window_s
        # Where looks are rarer than thrice in the window, each stands for its own share of it.
        most = leak_per_s * (at - since) + quota * max(CONNECTION_BURST, (at - since) / window_s)
        meter, sum_bytes = flow.meter.add(at, min(most, moved - flow.moved), leak_per_s=leak_per_s, quota=quota)
        after[one.inode] = Flow(moved, meter)
        if sum_bytes > credit:
            credit, peer = sum_bytes, one.peer
    if not credit:
        return after, []
    return after, [Progress(at, Tier.DATA, "connection", f"at least {format_size(credit)} over the connection with {peer}")]
