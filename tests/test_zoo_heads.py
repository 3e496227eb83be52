"""The zoo is whole: every head can be read and says what exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from zoo_reading import HeadError, read_program, read_zoo

CATALOGUE = {
    "compile-cache-unusable",
    "stale-lock-file",
    "lock-held-elsewhere",
    "thread-deadlock",
    "fork-deadlock",
    "lost-worker",
    "stuck-worker",
    "pipe-deadlock",
    "stdin-wait",
    "network-stall",
    "filesystem-stall",
    "process-stopped",
    "gpu-stall",
    "collective-mismatch",
    "exit-stall",
    "busy-loop",
    "poll-loop",
    "abandoned-wait",
    "import-deadlock",
    "async-stall",
    "memory-thrash",
}

HANG = """\"\"\"Waits.\"\"\"

# /// zoo
# expect = "hang"
# causes = ["busy-loop"]
# culprit = ["main"]
# provable = true
# needs = []
# stdin = "null"
# cure = "relaunch"
# timeouts = "stall"
# ///
"""

pytestmark = pytest.mark.quick


def test_there_are_enough_programs_of_both_kinds():
    programs = read_zoo()
    assert sum(program.is_hang for program in programs) >= 45
    assert sum(not program.is_hang for program in programs) >= 30


def test_every_cause_is_an_id_of_the_catalogue():
    assert {cause for program in read_zoo() for cause in program.causes} <= CATALOGUE


def test_every_kind_of_cause_that_can_be_made_safely_is_there():
    # A device, a wedged file system and a swap storm cannot be made without root or danger.
    missing = CATALOGUE - {program.causes[0] for program in read_zoo() if program.is_hang}
    assert missing == {"filesystem-stall", "gpu-stall", "memory-thrash"}


def test_what_no_outside_message_can_wake_is_not_fed_from_outside():
    for program in read_zoo():
        if program.is_provable:
            assert program.stdin != "open-pipe", program.name
            assert not program.outside or program.outside[:2] == ("serve", "echo"), program.name


def test_hanging_programs_say_when_and_can_be_cured_by_a_relaunch():
    for program in read_zoo():
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(program.path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "zoo"
        }
        if program.is_hang:
            assert "say_hang" in called, program.name
            assert called & {"warm_up", "leave_if_cured"}, program.name
        else:
            assert "finish" in called, program.name
            assert "say_hang" not in called, program.name


def test_programs_that_use_the_same_outside_helper_name_its_file_in_the_head():
    for program in read_zoo():
        text = program.path.read_text()
        calls = ("zoo.outside(", "zoo.port(", "zoo.ask_waker(")
        assert bool(program.outside) == any(call in text for call in calls), program.name
        assert ("zoo.ask_waker(" in text) == (program.outside == ("wake", "waker")), program.name
        if program.outside and program.outside[0] == "serve":
            assert f'zoo.port("{program.outside[1]}")' in text or f"zoo.port('{program.outside[1]}')" in text, program.name


def test_the_length_of_a_healthy_run_follows_the_stall_timeout():
    by_name = {program.name: program for program in read_zoo()}
    assert by_name["healthy_cpu_python"].duration_s(4) == 12
    assert by_name["healthy_eval_gap"].duration_s(10) == 26
    assert by_name["healthy_trainer"].duration_s(10) == 40


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("# needs = []", "# need = []", "'needs' is missing"),
        ("# needs = []", "# needs = []\n# nests = []", "unknown key 'nests'"),
        ("# needs = []", "# needs = [1]", "list of strings"),
        ('"stall"', '"soon"', "none of stall, busy, rhythm"),
        ('"hang"', '"maybe"', "expect must be"),
        ('["main"]', "[]", "must name something"),
        ("# needs = []", "# needs = [", "hang_x.py"),
        ("# /// zoo", "# /// zo", "no head"),
        ("true", '"yes"', "should be bool"),
    ],
)
def test_a_wrong_head_is_refused_with_its_file_and_key(tmp_path: Path, before: str, after: str, complaint: str):
    path = tmp_path / "hang_x.py"
    path.write_text(HANG)
    assert read_program(path).causes == ("busy-loop",)
    assert before in HANG
    path.write_text(HANG.replace(before, after))
    with pytest.raises(HeadError, match=complaint):
        read_program(path)
