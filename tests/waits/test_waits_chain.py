"""The chain of blame, on captures of the zoo's programs that really hung."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import case_of
from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.waits.chain import Chain, find_start, follow
from unsloth_watch.waits.graph import Graph
from unsloth_watch.waits.want import Aim

pytestmark = pytest.mark.quick


def chain_of(evidence: Evidence) -> tuple[Graph, Chain]:
    graph = Graph(evidence)
    start = find_start(graph, evidence.processes[0].ref.pid)
    assert start is not None
    return graph, follow(graph, start)


def zoo(name: str) -> Evidence:
    return case_of(f"zoo-hang_{name}").evidence


def test_two_locks_are_a_circle_of_both_threads() -> None:
    graph, chain = chain_of(zoo("abba"))
    assert [graph.wants[key].name for key in chain.cycle] == ["disk", "model"]
    assert chain.is_sure


def test_one_lock_taken_twice_is_a_circle_of_one() -> None:
    _, chain = chain_of(zoo("self_lock"))
    assert len(chain.cycle) == 1
    assert chain.closing is not None


def test_the_chain_goes_through_a_shell_to_the_grandchild() -> None:
    graph, chain = chain_of(zoo("grandchild"))
    assert [graph.wants[key].aim for key in chain.keys] == [Aim.CHILD, Aim.CHILD, Aim.LOCK]


def test_a_shell_in_front_of_the_job_is_stepped_over() -> None:
    evidence = zoo("event")
    (job,) = evidence.processes
    shell = ProcessEvidence(
        ref=ProcessRef(9, 9),
        ppid=1,
        command=("bash", "-c", "python train.py; echo done"),
        threads=(ThreadEvidence(tid=9, name="bash", is_main=True, state="S", call="wait4", syscall_args=(0xFFFFFFFF,)),),
        state="S",
    )
    wrapped = msgspec.structs.replace(evidence, processes=(shell, msgspec.structs.replace(job, ppid=9)), root=shell.ref)
    graph, chain = chain_of(wrapped)
    assert [graph.wants[key].aim for key in chain.keys] == [Aim.EVENT]


def test_of_several_workers_the_stopped_one_is_followed() -> None:
    graph, chain = chain_of(zoo("executor_worker_stopped"))
    assert graph.wants[chain.end].aim is Aim.STOPPED


def test_the_rank_that_is_elsewhere_is_where_the_waiting_ends() -> None:
    graph, chain = chain_of(zoo("gloo_rank_stuck"))
    assert graph.name(chain.end).startswith("rank 1 ")
    assert graph.wants[chain.end].aim is Aim.EVENT


def test_a_feeder_that_writes_is_not_idle() -> None:
    graph, chain = chain_of(zoo("queue_feeder"))
    names = [graph.scene.threads[key].name for key in chain.cycle]
    assert names[-1] == "QueueFeederThread"


def test_idle_pool_workers_wait_for_nobody() -> None:
    graph, chain = chain_of(zoo("pool_worker_killed"))
    assert len(chain.keys) == 1
    workers = [graph.main_of(pid) for pid in graph.children_of(chain.end[0])]
    assert {graph.wants[key].aim for key in workers if key is not None} == {Aim.IDLE}
