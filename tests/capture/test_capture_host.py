"""The machine's facts, the kernel's log and the permission to trace."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.capture.children import own_pids
from unsloth_watch.capture.connections import parse_connections
from unsloth_watch.capture.host import read_cgroup, read_host
from unsloth_watch.capture.kernel import parse_record, read_kernel_log, select_lines
from unsloth_watch.capture.permission import check_trace, explain_refusal


def test_the_facts_of_this_machine_are_numbers():
    facts = read_host(None)
    assert int(facts["memory_available"]) <= int(facts["memory_total"])
    assert len(facts["load"].split()) == 3
    assert int(facts["cpus_usable"]) <= int(facts["cpus"])
    assert int(facts["shm_free"]) <= int(facts["shm_total"])


@pytest.mark.quick
def test_a_memory_limit_is_read_in_both_versions_of_control_groups(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job/memory.max").write_text("1000\n")
    (tmp_path / "job/memory.current").write_text("900\n")
    (tmp_path / "job/memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    limits = {"cgroup_memory_limit": "1000", "cgroup_memory_used": "900", "cgroup_oom_kills": "2"}
    assert read_cgroup("0::/job\n", str(tmp_path)) == limits
    (tmp_path / "memory/old").mkdir(parents=True)
    (tmp_path / "memory/old/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory/old/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    found = read_cgroup("4:memory:/old\n0::/\n", str(tmp_path))
    assert found == {"cgroup_memory_limit": "unlimited", "cgroup_oom_kills": "5"}


@pytest.mark.quick
def test_in_a_container_the_mount_is_the_group_itself(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    assert read_cgroup("0::/kubepods/pod1\n", str(tmp_path)) == {"cgroup_memory_limit": "unlimited"}
    assert read_cgroup("", str(tmp_path)) == {}


@pytest.mark.quick
def test_kernel_lines_about_trouble_or_the_job_are_kept_newest_last():
    lines = [
        "[1.0] EXT4-fs mounted",
        "[2.0] NVRM: Xid (PCI:0000:01:00): 79, pid=4, GPU has fallen off the bus.",
        "[3.0] INFO: task python:77 blocked for more than 120 seconds.",
        "[4.0] python[4321]: segfault at 0",
        "[5.0] python[43210]: segfault at 0",
        "[6.0] Memory cgroup out of memory: Killed process 9 (python)",
    ]
    assert select_lines(lines, {4321}) == (lines[1], lines[2], lines[3], lines[5])
    assert select_lines(lines[:1] * 2, set()) == ()


@pytest.mark.quick
def test_a_record_of_the_kernel_becomes_a_line():
    assert parse_record(b"6,339,5140900,-;NET: x\n SUBSYSTEM=net\n") == "[5.140900] NET: x"
    assert parse_record(b"garbage") is None


@pytest.mark.quick
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parsers(raw):
    parse_record(raw)
    parse_connections(b"head\n" + raw, "tcp")


def test_the_kernel_log_is_read_or_the_reason_is_said():
    lines, why = read_kernel_log({os.getpid()})
    assert (why is None) or (lines == () and why.startswith("kernel log: "))


@pytest.mark.quick
def test_a_socket_table_gives_both_ends():
    raw = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        b"   0: 0100007F:1F90 0200000A:01BB 01 00000005:00000000 00:00000000 00000000     0        0 4711 1 0\n"
    )
    found = parse_connections(raw, "tcp")
    assert list(found) == [4711]
    assert str(found[4711]) == "tcp 127.0.0.1:8080 → 10.0.0.2:443 ESTABLISHED, 5 B unsent, 0 B unread"
    raw = raw.replace(b"0100007F", b"00000000000000000000000001000000")
    assert str(parse_connections(raw, "tcp6")[4711]).startswith("tcp6 [::1]:8080 → ")


def test_tracing_that_works_is_no_problem_and_leaves_no_child():
    assert check_trace() is None
    assert own_pids() == frozenset()


def test_a_refusal_is_explained_with_a_remedy(fake_tool):
    problem = check_trace(binary=fake_tool("echo 'Permission Denied: Try again' >&2; exit 1"))
    assert problem is not None
    assert problem.startswith("stacks can")
    problem = check_trace(binary="/nonexistent/py-spy")
    assert problem is not None
    assert "pip" in problem


def test_a_check_that_blocks_ends_with_its_deadline(fake_tool):
    problem = check_trace(1.0, binary=fake_tool("exec sleep 500"))
    assert problem is not None
    assert "killed" in problem
    assert own_pids() == frozenset()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("scope", "capability", "is_container", "has_consented", "words"),
    [
        (1, False, False, True, ["only of the command itself", "ptrace_scope is 1", "CAP_SYS_PTRACE is missing", "ptrace_scope=0"]),
        (2, False, False, False, ["not at all", "ptrace_scope is 2"]),
        (3, True, False, False, ["ptrace_scope is 3", "boot"]),
        (None, False, True, False, ["CAP_SYS_PTRACE is missing", "--cap-add=SYS_PTRACE"]),
        (0, True, False, False, ["seccomp"]),
    ],
)
def test_each_refusal_has_its_own_remedy(scope, capability, is_container, has_consented, words):
    text = explain_refusal(scope, capability, is_container, has_consented=has_consented)
    assert [word for word in words if word not in text] == []
