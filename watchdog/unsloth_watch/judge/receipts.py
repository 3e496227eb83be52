"""Data that nobody counts: a thread that wakes again and again from a wait for it is at work, as far as can be known.

recv(2) and send(2) are in no counter of a process, and the kernel has byte totals for TCP alone. What can be seen of a stream
through a UNIX or UDP socket is how often its reader wakes, or a writer that is quicker than its reader. That is effort and never
progress: a heartbeat that is sent often enough looks the same. What a process sends to itself, as an event loop does to wake itself
up, is no stream; whoever feeds it so is seen by other means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.judge.meter import Meter
from unsloth_watch.judge.rules import CLOCKED_WAKES, CONNECTION_BURST, RECEIPT_LEAK, RECEIPTS_PER_S, SENT_WAKES, Rules
from unsloth_watch.model.evidence import Connection, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.receiver import Receiver, ReceiverSample
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.wait import Class, classify

MOST_RECEIVERS = 128
"""Threads that are looked at: 27 µs each at every tick, 0.3 % of a core for all of them."""
REMEDY = "where it works, let it print, or report X_STEP=n on NOTIFY_SOCKET"
_SENDS = frozenset({"sendto", "sendmsg", "sendmmsg"})
_MOVES = frozenset({"recvfrom", "recvmsg", "recvmmsg", *_SENDS})
"""Calls whose bytes are in no counter of the process, as those of read(2) and write(2) are."""
_POLLS = frozenset({"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2"})
_LIMIT = re.compile(r"timeout ([0-9.e+-]+) s$")

Thread = tuple[ProcessRef, int]


class Receipt(msgspec.Struct, frozen=True):
    """What one thread took.

    Attributes:
        vctx: Its switches when they were last read.
        reads: Its read calls then; None if unreadable.
        at: When that was, effective seconds.
        meter: Wakes that came together.
        taken: Wakes since ``since``.
        since: When a stream was last seen of it, or it was first looked at, effective seconds.
    """

    vctx: int
    reads: int | None
    at: float
    meter: Meter
    taken: float
    since: float


class Receipts(msgspec.Struct, frozen=True):
    """What all of them took.

    Attributes:
        threads: By process and thread.
        received_at: When a stream was last seen, effective seconds; None before the first.
        said: What is to be said of the newest sample, one phrase; empty where nothing came.
    """

    threads: Mapping[Thread, Receipt] = {}
    received_at: float | None = None
    said: str = ""

    def is_flowing(self, at: float, within_s: float) -> bool:
        """Whether a stream was seen within the last ``within_s`` seconds before ``at``."""
        return self.received_at is not None and at - self.received_at < within_s


def find_receivers(survey: Evidence, known: Mapping[Thread, Receiver] | None = None) -> dict[Thread, Receiver]:
    """Return the threads that wait for data which nobody counts, and those known before that still live.

    Args:
        survey: What all threads wait for.
        known: From earlier surveys; the longest limit of a thread stands.
    """
    is_whole = not (survey.refuted or survey.missing)
    living = {(process.ref, thread.tid) for process in survey.processes for thread in process.threads}
    found = {key: receiver for key, receiver in (known or {}).items() if key in living or not is_whole}
    holders: dict[str, set[int]] = {}
    for process in survey.processes:
        for descriptor in process.descriptors or ():
            if descriptor.target.startswith("socket:["):
                holders.setdefault(descriptor.target, set()).add(process.ref.pid)
    for process in survey.processes:
        uncounted: dict[str, str] | None = None
        for thread in process.threads:
            if thread.call not in _MOVES | _POLLS:
                continue
            if uncounted is None:
                # Where not all were read, somebody else may hold the other end.
                uncounted = _find_uncounted(process, holders if is_whole else {})
            receiver = _find_receiver(thread, process, uncounted) if uncounted else None
            if receiver is None:
                continue
            key = receiver.ref, receiver.tid
            if key in found:
                limits = found[key].limit_s, receiver.limit_s
                longest = None if None in limits else max(limit for limit in limits if limit is not None)
                found[key] = msgspec.structs.replace(receiver, limit_s=longest)
            elif len(found) < MOST_RECEIVERS:
                found[key] = receiver
    return found


def weigh_receipts(receipts: Receipts, receivers: tuple[ReceiverSample, ...] | None, rules: Rules, at: float) -> Receipts:
    """Return what was taken, after these readings; a stream was seen where ``received_at`` is now.

    Args:
        receipts: From the previous sample.
        receivers: As read now; threads that are gone are forgotten. None where they could not be read.
        rules: For the window.
        at: Now, effective seconds.
    """
    if receivers is None:  # totals: what is not seen now is seen later
        rested = {key: _rest(one, at) for key, one in receipts.threads.items()}
        return Receipts(rested, receipts.received_at)
    threads: dict[Thread, Receipt] = {}
    flowing, seldom = "", ""
    most = 0.0
    for one in receivers:
        key = one.receiver.ref, one.receiver.tid
        before = receipts.threads.get(key)
        if one.vctx is None:
            if before is not None:
                threads[key] = _rest(before, at)
            continue
        if before is None or at <= before.at:
            threads[key] = before or Receipt(one.vctx, one.reads, at, Meter(), 0.0, at)
            continue
        seconds = at - before.at
        woken = _count_wakes(before, one, seconds)
        weight = SENT_WAKES if one.receiver.is_send else 1.0
        meter, credit = _add(before.meter, weight * woken, seconds, rules, at)
        taken, since = before.taken + woken, before.since
        if credit:
            if woken / seconds > most:
                most = woken / seconds
                flowing = _say(one.receiver, most, "the busy timeout decides")
            taken, since = 0.0, at
        elif taken > 1:
            rate, least = taken / (at - since), RECEIPTS_PER_S / weight
            seldom = _say(one.receiver, rate, f"no stream (from {least:g})" if rate < least else "not yet long enough for a stream")
        threads[key] = Receipt(one.vctx, one.reads, at, meter, taken, since)
    return Receipts(threads, at if flowing else receipts.received_at, flowing or seldom)


def _say(receiver: Receiver, rate: float, why: str) -> str:
    often = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    what = f"PID {receiver.ref} moves something through {receiver.source} {often} times a second"
    return f"{what}, bytes that nobody counts: {why}; {REMEDY}"


def _rest(receipt: Receipt, at: float) -> Receipt:
    """Return what a thread took, after a sample that could not see it."""
    return msgspec.structs.replace(receipt, meter=receipt.meter.rest(at))


def _count_wakes(before: Receipt, now: ReceiverSample, seconds: float) -> float:
    """Return how often a thread woke for what nobody counts: neither by its own time limit nor to read(2), which is counted."""
    if now.is_there is False or now.vctx is None:
        return 0.0
    woken = float(now.vctx - before.vctx)
    if now.receiver.is_poll:
        woken -= max(0, now.reads - before.reads) if now.reads is not None and before.reads is not None else 0
    if now.receiver.limit_s:
        woken -= CLOCKED_WAKES * seconds / now.receiver.limit_s
    return max(0.0, woken)


def _add(meter: Meter, woken: float, seconds: float, rules: Rules, at: float) -> tuple[Meter, float]:
    """Return the meter of a thread after its wakes; one look adds a third of the quota at most: a burst is no stream."""
    leak_per_s = RECEIPT_LEAK * RECEIPTS_PER_S
    quota = (1 - RECEIPT_LEAK) * RECEIPTS_PER_S * rules.connection_s
    most = leak_per_s * seconds + quota * max(CONNECTION_BURST, seconds / rules.connection_s)
    return meter.add(at, min(woken, most), leak_per_s=leak_per_s, quota=quota)


def _find_uncounted(process: ProcessEvidence, holders: Mapping[str, set[int]]) -> dict[str, str]:
    """Return the sockets of a process whose bytes nobody counts, with a word for each."""
    found = {}
    for descriptor in process.descriptors or ():
        if descriptor.target.startswith("socket:[") and not _is_own(descriptor.target, descriptor.connection, process, holders):
            kind = descriptor.connection.kind if descriptor.connection is not None else ""
            if not kind.startswith("tcp"):
                word = "a UNIX socket" if kind == "unix" else "a UDP socket" if kind.startswith("udp") else "a socket"
                found[descriptor.target] = word
    return found


def _is_own(target: str, connection: Connection | None, process: ProcessEvidence, holders: Mapping[str, set[int]]) -> bool:
    """Whether both ends are this process's, and nobody else's of the job."""
    if connection is None or connection.kind != "unix":
        return False
    return holders.get(target, {-1}) | holders.get(connection.remote, {-1}) == {process.ref.pid}


def _leave_own(uncounted: Mapping[str, str], targets: Sequence[str], process: ProcessEvidence) -> Mapping[str, str]:
    """Leave out pairs of which a process has both ends where it waits for TCP as well: what wakes it is counted.

    An event loop's own pair is inherited by every child that is forked beside it.
    """
    found = {one.target: one.connection for one in process.descriptors or () if one.connection is not None}
    if not any(target in found and found[target].kind.startswith("tcp") for target in targets):
        return uncounted
    own = {one for one, connection in found.items() if connection.kind == "unix" and connection.remote in found}
    return {one: word for one, word in uncounted.items() if one not in own}


def _find_receiver(thread: ThreadEvidence, process: ProcessEvidence, uncounted: Mapping[str, str]) -> Receiver | None:
    wait = classify(thread, process)
    is_poll = thread.call in _POLLS
    if wait.kind not in (Class.CHANNEL, Class.TIMED) or wait.loop is Loop.MONITOR or thread.is_pulse or thread.syscall is None:
        return None
    if is_poll:
        uncounted = _leave_own(uncounted, wait.targets, process)
    source = next((uncounted[target] for target in wait.targets if target in uncounted), None)
    if source is None:
        return None
    limit = _LIMIT.search(wait.why) if is_poll else None
    return Receiver(
        process.ref, thread.tid, source, thread.syscall, wait.is_write, is_poll, float(limit[1]) if limit is not None else None
    )
