"""A rank, or a machine with all its ranks, that is not there: the others wait for it, and nothing of it is to be seen here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unsloth_watch.diagnose.blame import Trace, explain, make_culprit, tell
from unsloth_watch.diagnose.waitremedies import mend_machine, mend_missing, mend_ranks
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.waits.functions import FINISHED, MACHINES
from unsloth_watch.waits.ranks import find_missing
from unsloth_watch.waits.scene import Key
from unsloth_watch.waits.stores import find_store

_CAUSE = "collective-mismatch"
_START = ("init_process_group", "_store_based_barrier", "_create_c10d_store", "_tcp_rendezvous_handler", "_env_rendezvous_handler")
_SIZES = ("nnodes", "num-machines")
_ENDPOINTS = (("rdzv-endpoint", ""), ("main-process-ip", "main-process-port"), ("master-addr", "master-port"))


def explain_missing(found: Trace, first: Key) -> Diagnosis:
    """Return the diagnosis of a rank, or a whole machine, that no process of this job stands for.

    Args:
        found: The trace.
        first: The first thread of the chain that waits for other ranks.
    """
    want = found.graph.wants[first]
    if want.words == MACHINES:
        return _explain_machine(found, first)
    missing, size = find_missing(found.case.processes)
    parent = found.graph.scene.processes[first[0]].ppid
    dead = [process for process in found.case.processes if process.state in ("Z", "X") and process.ppid == parent]
    # Whoever could write into a store is connected to it, so that a rank which is not there yet has to come.
    is_ending, is_whole = want.words == FINISHED, size > 0 and not missing
    is_starting = want.name.rpartition(".")[2] in _START or find_store(first, found.graph.scene) is not None
    is_starting = is_starting and not (is_ending or is_whole)
    status = Status.SUPPORTED if found.is_lasting and (is_starting or missing or dead) else Status.HYPOTHESIS
    more = (
        [Statement(f"WORLD_SIZE is {size}, and of its ranks {_count(missing)} is not in this job", "environment")]
        if missing
        else []
    )
    more += [Statement(f"PID {process.ref.pid} has ended and is a zombie", "/proc/PID/stat") for process in dead]
    more += [*_state_store(found, first)]
    culprit = make_culprit(found, first)
    who = f"{_count(missing)} of {size}" if missing else f"PID {dead[0].ref.pid}" if len(dead) == 1 else None
    fate = "has died" if dead and len(missing) in (0, len(dead)) else "never started, has died, or is on another host"
    lost = f"{who} is not there: it {fate}" if who else f"a rank {fate}"
    title = "A rank is missing"
    if is_ending:
        title, lost = "Another machine has not finished", "its ranks have not ended yet, or its launcher has died"
    elif is_whole and not dead:
        title, lost = "Ranks wait for each other", f"all {size} ranks are here, and each waits for another one"
    return explain(
        found,
        _CAUSE,
        title,
        f"{tell(found, first)} ({want.name}), and no process of this job is elsewhere: {lost}.",
        status,
        confidence=0.85 if status is Status.SUPPORTED else None,
        culprit=Culprit(
            kind="rank",
            pid=dead[0].ref.pid if len(dead) == 1 else None if missing else culprit.pid,
            rank=missing[0] if len(missing) == 1 else None if missing or dead else culprit.rank,
            thread=culprit.thread,
            frame=culprit.frame,
            peer=who,
        ),
        refuted_by="all ranks are there and in the same collective, which would make it a stall of the network or the device",
        remedies=mend_ranks() if is_ending or is_whole else mend_missing(who or "the missing rank"),
        more=tuple(more),
    )


def _count(ranks: tuple[int, ...]) -> str:
    """Return ``rank 2``, ``ranks 8–15``, or the first few of what is no row."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks and len(ranks) == ranks[-1] - ranks[0] + 1:
        return f"each of the ranks {ranks[0]}–{ranks[-1]}"
    return f"each of the ranks {', '.join(map(str, ranks[:8]))}{'…' if len(ranks) > 8 else ''}"


def _state_store(found: Trace, first: Key) -> Iterator[Statement]:
    """Yield where the ranks meet: the address that the rank was told, and who is connected to a store of this job."""
    environment = found.graph.scene.processes[first[0]].environment or {}
    told = [f"{name}={environment[name]}" for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment]
    if told:
        yield Statement(f"it was told to meet the others at {' '.join(told)}", "environment")
    store = find_store(first, found.graph.scene)
    if store is not None:
        targets = found.graph.scene.waits[store].targets
        clients = [
            descriptor.connection.remote
            for descriptor in found.graph.scene.processes[store[0]].descriptors or ()
            if descriptor.target in targets and descriptor.connection is not None and descriptor.connection.state == "ESTABLISHED"
        ]
        here = "client is" if len(clients) == 1 else "clients are"
        yield Statement(f"{found.graph.name(store)} serves the store, and {len(clients)} {here} connected to it", "/proc/net")


def _explain_machine(found: Trace, first: Key) -> Diagnosis:
    """Return the diagnosis of a launcher (torchrun, accelerate launch) that waits for those of other machines."""
    command = found.graph.scene.processes[first[0]].command or ()
    size = next((text for name in _SIZES if (text := _read_option(command, name))), "")
    endpoint = next(
        (
            f"{host}:{port}" if (port := _read_option(command, other)) else host
            for name, other in _ENDPOINTS
            if (host := _read_option(command, name))
        ),
        "",
    )
    who = f"another machine of {size}" if size else "another machine"
    reach = f"cannot reach {endpoint}" if endpoint else "cannot reach this one"
    status = Status.SUPPORTED if found.is_lasting else Status.HYPOTHESIS
    return explain(
        found,
        _CAUSE,
        "A machine is missing",
        f"{found.graph.name(first)} {MACHINES} in {found.graph.wants[first].name}, and {who} is not there: "
        f"it has not started its launcher, or {reach}.",
        status,
        confidence=0.85 if status is Status.SUPPORTED else None,
        culprit=Culprit(kind="rank", pid=first[0], peer=f"{who}, at {endpoint}" if endpoint else who),
        refuted_by="the launchers of all machines wait at the same address, which would make it a stall of the network",
        remedies=mend_machine(endpoint),
        more=tuple(_state_store(found, first)),
    )


def _read_option(command: Sequence[str], name: str) -> str:
    """Return the value of ``--name=value`` or ``--name value``, hyphens and underscores alike; empty where it is not given."""
    for at, word in enumerate(command):
        key, equals, value = word.partition("=")
        if key.startswith("--") and key[2:].replace("_", "-") == name:
            return value if equals else next(iter(command[at + 1 : at + 2]), "")
    return ""
