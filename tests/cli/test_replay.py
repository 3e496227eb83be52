"""A real run judged again from its samples: the same verdicts by its own settings, other ones by others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scenario import process, reading, sample
from unsloth_watch.judge.rules import Rules
from unsloth_watch.model.sample import Sample
from unsloth_watch.supervise.replay import find_disagreements, replay
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.samples import SampleLog, read_samples
from watched import PROGRAM, Watched

JOB = """
    import os, threading, time
    for step in range(3):
        print(f"step {step}/100", flush=True)
        time.sleep(0.3)
    time.sleep(4)
    print("step 4/100", flush=True)
    if os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1":
        lock = threading.Lock(); lock.acquire(); lock.acquire()
    time.sleep(1.5)
"""


def again(watched: Watched, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*PROGRAM, "replay", str(watched.directory), *words], capture_output=True, text=True, check=False, env=watched.environment()
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run whose first attempt hung, and whose second did not."""
    watched = Watched(tmp_path_factory.mktemp("hung"))
    options = ("--stall-timeout", "8s", "--busy-timeout", "60s", "--grace", "1s")
    status, _, err = watched.run(sys.executable, watched.script(JOB), options=options)
    assert status == 0, err
    return watched


def test_a_run_judged_by_its_own_settings_gives_the_verdicts_that_it_gave(hung: Watched) -> None:
    [event] = hung.events("hang.detected")
    status, out, err = again(hung, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    first, second = found["attempts"]
    [verdict] = first["hangs"]
    assert (verdict["quiet_s"], verdict["proven"]) == (event["quiet_s"], event["proven"])
    assert (first["attempt"], second["attempt"], second["hangs"]) == (1, 2, [])
    assert found["disagreements"] == []
    assert found["rules"] == found["own_rules"] == {"stall_s": 8.0, "busy_s": 60.0}


def test_with_other_timeouts_it_says_what_they_would_have_done(hung: Watched) -> None:
    status, out, _ = again(hung, "--stall-timeout", "1s", "--json")
    assert status == 0
    for attempt in json.loads(out)["attempts"]:
        # A second is less than the job rests between two steps, on a crowded machine too, where limits are three times longer.
        alarms = [hang for hang in attempt["hangs"] if hang["resumed_s"] is not None]
        assert alarms
        assert all(hang["resumed_s"] > hang["at_s"] for hang in alarms)
        assert any("→ 4" in hang["resumed_by"] for hang in alarms)
        assert attempt["longest_quiet_s"] >= 1.0


def test_people_are_told_in_words(hung: Watched) -> None:
    status, out, _ = again(hung)
    assert status == 0
    assert "judged again with --stall-timeout 8s --busy-timeout 1m (its own settings)" in out
    assert "attempt 1:" in out
    assert "hung: quiet for" in out
    assert "attempt 2:" in out
    assert "not called hung" in out
    assert "a false alarm: it went on" in again(hung, "--stall-timeout", "1s")[1]


def test_a_run_whose_events_say_otherwise_is_told(hung: Watched, tmp_path: Path) -> None:
    other = Watched(tmp_path)
    subprocess.run(["cp", "-r", str(hung.directory), str(other.directory)], check=True)
    events = other.directory / "events.jsonl"
    quiet = hung.events("hang.detected")[0]["quiet_s"]
    events.write_text(events.read_text().replace(f'"quiet_s":{quiet}', '"quiet_s":77.5'))
    status, out, _ = again(other)
    assert status == 1
    assert "differs from the run: attempt 1 was called hung after 77.5 quiet seconds" in out
    # By other settings it may say otherwise.
    assert again(other, "--stall-timeout", "20s")[0] == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--stall-timeout", "soon"), 64, "soon"),
        (("--stall-timeout", "0"), 64, "between 1ms and a year"),
        (("--stal", "5"), 64, "--stal"),
    ],
)
def test_bad_input_is_said_in_one_line(hung: Watched, words: tuple[str, ...], status: int, said: str) -> None:
    code, out, err = again(hung, *words)
    assert (code, out) == (status, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_run_without_samples_says_why(hung: Watched, tmp_path: Path) -> None:
    other = Watched(tmp_path)
    subprocess.run(["cp", "-r", str(hung.directory), str(other.directory)], check=True)
    (other.directory / "samples.jsonl").write_text("")
    assert "has no samples to judge" in again(other)[2]
    (other.directory / "samples.jsonl").unlink()
    assert "has no samples to judge" in again(other)[2]


def stepping(number: int, seconds: int, until: int, **changes: Any) -> list[Sample]:
    return [
        msgspec.structs.replace(sample(float(at), process(), output=reading(min(at, until), 100)), attempt=number, **changes)
        for at in range(seconds)
    ]


@pytest.mark.quick
def test_every_attempt_is_judged_from_an_empty_memory() -> None:
    # The second attempt's steps begin anew; a memory of the first one's would see no progress in them.
    first, second = replay([*stepping(1, 20, 5), *stepping(2, 20, 19)], Rules(stall_s=10.0))
    assert [hang.at_s for hang in first.hangs] == [15.0]
    assert second.hangs == ()


@pytest.mark.quick
def test_silence_counts_from_a_repair() -> None:
    samples = stepping(1, 24, 5)
    samples[14] = msgspec.structs.replace(samples[14], is_renewed=True)
    [one] = replay(samples, Rules(stall_s=10.0))
    assert [hang.at_s for hang in one.hangs] == [23.0]


@pytest.mark.quick
def test_a_hang_that_the_replay_does_not_see_is_a_disagreement() -> None:
    attempts = replay(stepping(1, 20, 5), Rules(stall_s=10.0))
    same = {"event": "hang.detected", "attempt": 1, "quiet_s": 10.0, "proven": False}
    assert find_disagreements(attempts, [same, {"event": "run.finished"}]) == []
    for other in ({"attempt": 2}, {"quiet_s": 11.0}, {"proven": True}):
        assert len(find_disagreements(attempts, [{**same, **other}])) == 1


@pytest.mark.quick
def test_samples_of_two_attempts_are_never_merged_into_one(tmp_path: Path) -> None:
    log = SampleLog(str(tmp_path / "samples.jsonl"), Redactor({}))
    for at in range(0, 4000, 7):
        log.append(msgspec.structs.replace(sample(float(at)), attempt=1 if at < 1000 else 2, is_renewed=at == 700))
    log.close()
    kept = list(read_samples(log.path))
    assert len(kept) < 400
    assert [one.attempt for one in kept] == sorted(one.attempt for one in kept)
    assert max(one.at for one in kept if one.attempt == 1) == 994.0
    assert sum(one.is_renewed for one in kept) == 1
