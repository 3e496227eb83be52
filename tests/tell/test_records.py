"""The run directory, run.json and samples.jsonl."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tell.founding import FILE, SECRETS, founding_samples
from tell.schemas import load_schema
from unsloth_watch.errors import RunDirectoryError
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look, OutputSample, Reading, Sample
from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.directory import clean_name, create_run_directory, find_base, use_run_directory
from unsloth_watch.tell.records import SCHEMA, AttemptRecord, IncidentRecord, RunFile, RunRecord, SettingRecord, read_run
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.samples import SampleLog, read_samples

pytestmark = pytest.mark.quick
WALL = 1_795_506_071.0


def test_a_run_directory_is_private_named_after_time_and_run_and_never_taken_twice(tmp_path: Path) -> None:
    base = tmp_path / "state" / "runs"
    directories = [create_run_directory(str(base), "my run/../x", lambda: WALL) for _ in range(20)]
    assert len({directory.path for directory in directories}) == 20
    for directory in directories:
        assert directory.id.startswith("20261124T074111Z-my-run-..-x-")
        assert os.path.dirname(directory.path) == str(base)
        assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700
    assert directories[0].incident(3) == f"{directories[0].path}/incidents/03"


@given(name=st.text())
def test_any_name_becomes_a_plain_file_name(name: str) -> None:
    cleaned = clean_name(name)
    assert 0 < len(cleaned) <= 40
    assert "/" not in cleaned
    assert not cleaned.startswith((".", "-"))
    assert cleaned.isascii()


def test_the_base_follows_xdg_and_ignores_a_relative_one() -> None:
    assert find_base({"XDG_STATE_HOME": "/s"}) == "/s/unsloth-watch/runs"
    assert find_base({"XDG_STATE_HOME": "s"}) == find_base({}) == os.path.expanduser("~/.local/state/unsloth-watch/runs")


def test_a_place_that_cannot_be_made_is_explained_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for make in (lambda path: create_run_directory(path, "x", lambda: WALL), use_run_directory):
        with pytest.raises(RunDirectoryError, match=r"file.*(Not a directory|File exists).*--run-dir"):
            make(str(tmp_path / "file" / "runs"))


def test_a_named_directory_is_taken_as_it_is_unless_it_holds_another_run(tmp_path: Path) -> None:
    directory = use_run_directory(str(tmp_path / "mine"))
    assert (directory.path, directory.id) == (str(tmp_path / "mine"), "mine")
    assert os.listdir(directory.path) == []
    Path(directory.summary).write_text("{}")
    with pytest.raises(RunDirectoryError, match="another run"):
        use_run_directory(directory.path)


def test_the_directory_module_imports_nothing_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); import unsloth_watch.tell.directory; "
        "print(*sorted(n for n in set(sys.modules) - before if not n.startswith('unsloth_watch')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert set(done.stdout.decode().split()) <= {"__future__", "time", "os"}


def test_the_supervisors_part_imports_no_renderer() -> None:
    script = (
        "import sys; import unsloth_watch.tell.events, unsloth_watch.tell.records, unsloth_watch.tell.samples, unsloth_watch.tell.console; "
        "print(*sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode().split()
    assert not {
        "unsloth_watch.tell.html",
        "unsloth_watch.tell.incident",
        "html",
        "tarfile",
        "structlog",
        "jinja2",
        "tempfile",
    } & set(modules)


def make_record() -> RunRecord:
    return RunRecord(
        schema=SCHEMA,
        id="r",
        command=("python", "x.py", "--token", SECRETS["HF_TOKEN"]),
        cwd="/w",
        started="2026-11-24T07:41:11.000Z",
        settings={"grace": SettingRecord("10s", "default")},
        versions={"unsloth-watch": "0.1.0"},
    )


def test_run_json_matches_its_schema_from_start_to_finish_and_holds_no_secret(tmp_path: Path) -> None:
    file = RunFile(str(tmp_path / "run.json"), Redactor(SECRETS))
    record = make_record()
    attempt = AttemptRecord(1, 42, "2026-11-24T07:41:11.100Z", env_changes={"A": None})
    states = [
        record,
        record.with_attempt(attempt),
        record.with_attempt(attempt)
        .with_incident(IncidentRecord(1, "pipe-deadlock", True, 6.0, "x", "incidents/01"))
        .with_attempt(AttemptRecord(1, 42, attempt.started, "2026-11-24T07:42:11.100Z", None, "SIGTERM", "hang"))
        .finish("2026-11-24T07:42:12.000Z", "hung", 124),
    ]
    for state in states:
        assert file.write(state)
        data = msgspec.json.decode((tmp_path / "run.json").read_bytes())
        jsonschema.validate(data, load_schema("run"))
        assert data["command"][3] == "‹token-1›"
    last = read_run(str(tmp_path / "run.json"))
    assert [attempt.signal for attempt in last.attempts] == ["SIGTERM"]
    assert (last.outcome, last.exit_code, last.incidents[0].cause) == ("hung", 124, "pipe-deadlock")


def test_a_run_json_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    file = RunFile(str(directory / "run.json"), Redactor({}))
    assert file.write(make_record())
    file.path = str(tmp_path / "gone" / "run.json")
    assert not file.write(make_record().finish("2026-11-24T07:42:12.000Z", "hung", 124))
    assert file.failures == 1
    assert file.trouble == "No such file or directory"
    assert read_run(str(directory / "run.json")).outcome is None


def test_an_atomic_write_that_fails_leaves_the_old_content_and_no_remains(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from unsloth_watch.tell.atomic import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write_atomically(sys.argv[1], b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (80, resource.RLIM_INFINITY))
try:
    write_atomically(sys.argv[1], b"n" * 200)
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "f"], check=True, capture_output=True)
    assert done.stdout.strip() == b"27"
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
    write_atomically(str(tmp_path / "f"), b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def tick(number: int, *, size: int = 0, looks: tuple[Look, ...] = ()) -> Sample:
    output = OutputSample(number * 10, number, (Reading("s", "step", float(number)),), prompt="x" * size or None)
    return Sample(at=float(number), wall=WALL + number, processes=(), output=output, looks=looks, gap_s=0.5 if number == 7 else 0.0)


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = SampleLog(str(tmp_path / "s"), Redactor({}))
    samples = [msgspec.structs.replace(sample, output=None) for sample in founding_samples()[:50]]
    assert all(log.append(sample) for sample in samples)
    log.close()
    assert list(read_samples(str(tmp_path / "s"))) == samples


def test_a_loss_that_is_not_a_number_does_not_cost_the_sample(tmp_path: Path) -> None:
    log = SampleLog(str(tmp_path / "s"), Redactor({}))
    log.append(founding_samples()[0])
    log.close()
    (sample,) = read_samples(str(tmp_path / "s"))
    assert sample.output is not None
    assert sample.output.readings == (Reading("ab12cd34"),)


def test_paths_and_prompts_in_samples_hold_no_secret(tmp_path: Path) -> None:
    log = SampleLog(str(tmp_path / "s"), Redactor(SECRETS))
    output = OutputSample(1, 1, prompt=f"token {SECRETS['HF_TOKEN']}? ")
    log.append(Sample(at=1.0, wall=WALL, processes=None, output=output, files=(FILE,)))
    log.close()
    assert SECRETS["HF_TOKEN"] not in (tmp_path / "s").read_text()
    (sample,) = read_samples(str(tmp_path / "s"))
    assert sample.files is not None
    assert sample.files[0].path.startswith("/data/‹token-")


def test_old_samples_are_merged_by_ten_and_lose_no_reading_look_or_gap(tmp_path: Path) -> None:
    log = SampleLog(str(tmp_path / "s"), Redactor({}))
    look = Look(ProcessRef(1, 1), "ab", ("f (x:1)",), False)
    for number in range(4000):
        assert log.append(tick(number, looks=(look,) if number == 5 else ()))
    log.close()
    samples = list(read_samples(str(tmp_path / "s")))
    times = [sample.at for sample in samples]
    assert times == sorted(times)
    assert times[-601:] == [float(number) for number in range(3399, 4000)]
    assert len(samples) < 1300 + 400
    readings = [reading.value for sample in samples if sample.output for reading in sample.output.readings]
    assert readings == [float(number) for number in range(4000)]
    assert sum(len(sample.looks) for sample in samples) == 1
    assert sum(sample.gap_s for sample in samples) == 0.5
    old = [sample for sample in samples if sample.at < 2000]
    assert {round(b.at - a.at) for a, b in pairwise(old)} == {10}


def test_the_file_never_exceeds_its_size_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "s"
    log = SampleLog(str(path), Redactor({}), max_bytes=20_000)
    for number in range(800):
        assert log.append(tick(number, size=200))
        assert path.stat().st_size <= 20_000
    log.close()
    assert [sample.at for sample in read_samples(str(path))][-1] == 799.0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["s"]


def test_a_full_disk_costs_samples_and_nothing_else(tmp_path: Path) -> None:
    log = SampleLog("/dev/full", Redactor({}))
    assert not log.append(tick(1))
    assert not log.append(tick(2))
    assert log.lost == 2
    assert log.trouble == "No space left on device"
    log.close()


def test_a_sample_file_changed_by_somebody_else_is_not_made_worse(tmp_path: Path) -> None:
    path = tmp_path / "s"
    log = SampleLog(str(path), Redactor({}), max_bytes=20_000)
    for number in range(10):
        log.append(tick(number, size=200))
    path.write_bytes(b"short\n")
    for number in range(10, 200):
        log.append(tick(number, size=200))
        assert path.stat().st_size <= 20_000
    assert log.lost > 0
    assert log.trouble is not None
    log.close()


def test_torn_and_damaged_samples_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    log = SampleLog(str(path), Redactor({}))
    log.append(tick(1))
    log.close()
    with path.open("ab") as stream:
        stream.write(b'{"at":"x"}\n\xff\xfe\n{"at":2.0,"wa')
    assert [sample.at for sample in read_samples(str(path))] == [1.0]
