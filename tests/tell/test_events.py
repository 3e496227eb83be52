"""events.jsonl and the console: whole lines under full disks, vanished directories and torn ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tell.schemas import load_schema
from unsloth_watch.model.diagnosis import Culprit
from unsloth_watch.tell.catalogue import EVENTS
from unsloth_watch.tell.console import Verbosity, describe
from unsloth_watch.tell.events import EventLog, read_events
from unsloth_watch.tell.linefile import LineFile
from unsloth_watch.tell.moment import format_duration, format_timestamp
from unsloth_watch.tell.redact import Redactor

pytestmark = pytest.mark.quick
HF = "hf_QwErTyUiOpAsDfGhJkLzXcVbNmQwErTy12"

EXAMPLES: dict[str, dict[str, object]] = {
    "run.started": {"command": ["python", "x.py", "--token", HF], "run_directory": "/runs/a"},
    "run.finished": {"outcome": "completed", "exit_code": 0},
    "attempt.started": {"pid": 42, "env_changes": {"PYTHONPATH": "/x", "OLD": None}},
    "attempt.finished": {"exit_code": None, "signal": "SIGTERM", "reason": "hang"},
    "phase.changed": {"phase": "train", "source": "output"},
    "stall.suspected": {"quiet_s": 45.0, "evidence": ["no output", "no new stacks"]},
    "stall.cleared": {"by": "step 30 → 31"},
    "hang.detected": {
        "cause": "pipe-deadlock",
        "proven": True,
        "quiet_s": 6.25,
        "confidence": 0.9,
        "culprit": Culprit(kind="process", pid=42, frame="write (x.py:1)"),
        "summary": "The parent waits for a child that blocks on a full pipe.",
        "incident": 1,
    },
    "hang.repaired": {"cause": "pipe-deadlock", "remedy": "drain-pipe", "progress": "output moved"},
    "incident.captured": {"incident": 1, "seconds": 0.8, "complete": False, "missing": ["native frames of PID 42"]},
    "remedy.applied": {"remedy": "import-path", "target": "PYTHONPATH", "kind": "environment", "undo": "unset PYTHONPATH"},
    "attempt.terminating": {"reason": "hang", "signal": "SIGTERM"},
    "attempt.unkillable": {"pids": [42], "wait_channel": "nfs_wait"},
    "restart.scheduled": {"delay_s": 2.0},
    "restart.refused": {"why": "the same hang twice"},
    "gpu.fault": {"device": 0, "uuid": "GPU-1", "xid": 31, "meaning": "Xid 31: GPU memory page fault"},
    "gpu.released": {"devices": ["GPU 0: 21000 MiB in use, 4 MiB after"], "seconds": 0.2, "is_free": True},
    "sensor.degraded": {"sensor": "gpu", "why": "NVML does not answer"},
    "watch.paused": {},
    "watch.resumed": {},
    "settings.reloaded": {"changed": {"stall-timeout": 240.0}, "deferred": ["stdin"]},
}


def open_log(path: Path, **more: object) -> EventLog:
    return EventLog(str(path), "run-1", Redactor({"HF_TOKEN": HF}), lambda: 1_795_506_071.1234, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_every_event_of_the_table_matches_its_schema_and_is_said_in_one_line(event: str, tmp_path: Path) -> None:
    log = open_log(tmp_path / "events.jsonl")
    log.emit(event, 1, **EXAMPLES[event])
    (record,) = read_events(str(tmp_path / "events.jsonl"))
    jsonschema.validate(record, load_schema("event"), format_checker=jsonschema.FormatChecker())
    assert record["timestamp"] == "2026-11-24T07:41:11.123Z"
    line = describe(record, Verbosity.VERBOSE)
    assert line is not None
    assert line.startswith("unsloth-watch: ")
    assert "\n" not in line
    assert "None" not in line
    assert HF not in line
    log.close()


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_the_schema_refuses_an_event_that_lacks_any_of_its_fields(event: str, tmp_path: Path) -> None:
    record = open_log(tmp_path / "events.jsonl").emit(event, 1, **EXAMPLES[event])
    for field in EVENTS[event] | {"timestamp", "run", "attempt"}:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({name: value for name, value in record.items() if name != field}, load_schema("event"))


def test_an_unknown_event_a_missing_and_a_reserved_field_are_programming_errors(tmp_path: Path) -> None:
    log = open_log(tmp_path / "events.jsonl")
    with pytest.raises(AssertionError, match="unknown event"):
        log.emit("run.startled", 1)
    with pytest.raises(AssertionError, match="lacks by"):
        log.emit("stall.cleared", 1)
    with pytest.raises(AssertionError, match="reserved run"):
        log.emit("stall.cleared", 1, by="x", run="y")
    assert not (tmp_path / "events.jsonl").exists()


def test_an_event_is_in_the_file_as_soon_as_emit_returns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = open_log(path)
    log.emit("stall.cleared", 1, by="output")
    other = subprocess.run(
        [sys.executable, "-c", "import sys;print(len(open(sys.argv[1]).readlines()))", path], capture_output=True, check=True
    )
    assert other.stdout.strip() == b"1"
    assert path.stat().st_mode & 0o777 == 0o600
    log.close()


def test_a_full_disk_is_said_once_and_later_events_go_out_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    said: list[str] = []
    log = EventLog("/dev/full", "r", Redactor({}), lambda: 0.0, complain=said.append)
    for number in range(5):
        log.emit("stall.cleared", 1, by=str(number))
    assert log.pending == 5
    assert log.failures == 5
    assert len(said) == 1
    assert "No space left on device" in said[0]
    log._file.path = str(tmp_path / "later.jsonl")  # the disk has room again
    log.emit("stall.cleared", 1, by="5")
    assert [event["by"] for event in read_events(str(tmp_path / "later.jsonl"))] == ["0", "1", "2", "3", "4", "5"]
    log.close()


def test_a_vanished_directory_costs_nothing_but_the_wait_until_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    log = open_log(directory / "events.jsonl", complain=lambda message: None)
    log.emit("stall.cleared", 1, by="before")
    shutil.rmtree(directory)
    log.emit("stall.cleared", 1, by="meanwhile")
    assert log.pending == 1
    directory.mkdir()
    log.emit("stall.cleared", 1, by="after")
    assert [event["by"] for event in read_events(str(directory / "events.jsonl"))] == ["meanwhile", "after"]
    log.close()


def test_events_that_had_to_be_dropped_leave_a_trace(tmp_path: Path) -> None:
    log = open_log(tmp_path / "gone" / "events.jsonl", complain=lambda message: None)
    for number in range(1003):
        log.emit("stall.cleared", 1, by=str(number))
    assert (log.pending, log.lost) == (1000, 3)
    (tmp_path / "gone").mkdir()
    log.emit("stall.cleared", 1, by="last")
    events = list(read_events(str(tmp_path / "gone" / "events.jsonl")))
    assert events[0]["by"] == "4"
    assert events[-1]["event"] == "sensor.degraded"
    assert events[-1]["why"].startswith("4 events were lost")
    log.close()


def test_a_line_cut_by_a_limit_of_the_disk_is_taken_back_and_the_next_one_is_whole(tmp_path: Path) -> None:
    # RLIMIT_FSIZE cuts a write exactly as a full disk does: the first part is written, the rest is refused.
    script = """
import resource, signal, sys
from unsloth_watch.tell.linefile import LineFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = LineFile(sys.argv[1])
assert file.append(b"a" * 50)
resource.setrlimit(resource.RLIMIT_FSIZE, (80, resource.RLIM_INFINITY))
assert not file.append(b"b" * 50)
assert open(sys.argv[1], "rb").read() == b"a" * 50 + b"\\n"
assert file.pending == 1 and file.trouble
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert file.append(b"c" * 50)
"""
    path = tmp_path / "lines"
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert path.read_bytes() == b"a" * 50 + b"\n" + b"b" * 50 + b"\n" + b"c" * 50 + b"\n"


def test_what_a_killed_supervisor_leaves_is_readable_to_its_last_event(tmp_path: Path) -> None:
    script = """
import itertools, sys, time
from unsloth_watch.tell.events import EventLog
from unsloth_watch.tell.redact import Redactor
log = EventLog(sys.argv[1], "r", Redactor({}), time.time)
for number in itertools.count():
    log.emit("stall.cleared", 1, by=str(number) + "x" * 500)
    if number == 200:
        print("ready", flush=True)
"""
    path = tmp_path / "events.jsonl"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    numbers = [int(event["by"].rstrip("x")) for event in read_events(str(path))]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 200
    assert path.read_bytes().count(b"\n") == len(numbers)


def test_a_torn_end_left_by_a_killed_writer_harms_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event":"a"}\n{"event":"to')
    assert [event["event"] for event in read_events(str(path))] == ["a"]
    log = open_log(path)
    log.emit("stall.cleared", 1, by="new")
    assert [event["event"] for event in read_events(str(path))] == ["a", "stall.cleared"]
    log.close()


def test_a_link_in_the_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "events.jsonl").symlink_to(target)
    assert not LineFile(str(tmp_path / "events.jsonl")).append(b"line")
    assert target.read_text() == "x"


def test_secrets_and_paths_that_are_no_utf8_are_written_readably(tmp_path: Path) -> None:
    log = open_log(tmp_path / "e")
    path = os.fsdecode(b"/data/\xff/x")
    record = log.emit("remedy.applied", 1, remedy="r", target=path, kind="filesystem", undo=f"login {HF}", odd=float("nan"))
    assert record["undo"] == "login ‹token-1›"
    (event,) = read_events(str(tmp_path / "e"))
    assert event["target"] == "/data/\\udcff/x"
    assert event["odd"] is None
    log.close()


def test_describe_says_less_when_quiet_and_more_when_verbose() -> None:
    said = {
        level: {event for event in EVENTS if describe(_record(event), level) is not None}
        for level in (Verbosity.QUIET, Verbosity.NORMAL, Verbosity.VERBOSE)
    }
    assert said[Verbosity.QUIET] == {"hang.detected", "hang.repaired", "attempt.unkillable", "restart.refused"}
    assert said[Verbosity.QUIET] < said[Verbosity.NORMAL] < said[Verbosity.VERBOSE] == set(EVENTS)


def test_the_line_of_a_hang_names_duration_cause_proof_and_culprit() -> None:
    line = describe(_record("hang.detected"))
    assert line is not None
    for part in ("6.2 s", "pipe-deadlock", "proven", "full pipe", "write (x.py:1)", "PID 42"):
        assert part in line


@given(text=st.text())
def test_foreign_text_cannot_break_the_line_or_move_the_cursor(text: str) -> None:
    line = describe({"event": "restart.refused", "run": "r", "attempt": 1, "why": f"a\x1b[2J\r\n{text}"})
    assert line is not None
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0.0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (90061, "1 d 1 h"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds: float | None, words: str) -> None:
    assert format_duration(seconds) == words


def test_a_timestamp_that_rounds_up_to_the_next_second_stays_valid() -> None:
    assert format_timestamp(1_795_506_071.9996) == "2026-11-24T07:41:12.000Z"


def _record(event: str) -> dict[str, object]:
    fields = msgspec.json.decode(msgspec.json.encode(EXAMPLES[event]))
    return {"event": event, "timestamp": "t", "run": "r", "attempt": 1, **fields}
