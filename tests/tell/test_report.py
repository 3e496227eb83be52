"""The report: its object, its Markdown, its bundle."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tell.founding import EVIL, SECRETS, WALL, founding_incident, frame, ranks_incident, thread
from tell.schemas import load_schema
from unsloth_watch.model.diagnosis import Diagnosis, Remedy, Status
from unsloth_watch.model.evidence import Descriptor, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef, ProcessSample
from unsloth_watch.model.sample import Sample
from unsloth_watch.model.verdict import State, Verdict
from unsloth_watch.tell.archive import render_command, write_incident
from unsloth_watch.tell.bundle import build_bundle
from unsloth_watch.tell.groups import format_ranges, group_stacks
from unsloth_watch.tell.html import render_html
from unsloth_watch.tell.incident import Incident, RemedyOutcome
from unsloth_watch.tell.markdown import render_markdown
from unsloth_watch.tell.markup import code, escape, fence
from unsloth_watch.tell.quantity import format_quantity
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.render import main
from unsloth_watch.tell.report import build_report
from unsloth_watch.tell.series import build_signals, keep_plotted
from unsloth_watch.tell.stacks import render_stacks
from unsloth_watch.tell.tail import clean_tail
from unsloth_watch.tell.waits import list_waits
from unsloth_watch.waits.ranks import find_ranks

pytestmark = pytest.mark.quick


def report_of(incident: Incident) -> dict[str, Any]:
    report = build_report(incident, Redactor({**incident.environment, **SECRETS}))
    return json.loads(msgspec.json.encode(report))  # type: ignore[no-any-return]


def bare_incident() -> Incident:
    """What is left when nothing could be had."""
    return Incident(
        run="r",
        number=1,
        attempt=1,
        command=("x",),
        cwd="/",
        wall=WALL,
        verdict=Verdict(State.HUNG, 10.0, 5.0, 5.0, None, ()),
        diagnosis=Diagnosis("unknown", "", "", Status.UNKNOWN, 0.0),
        evidence=Evidence(at=10.0, seconds=0.0, processes=()),
    )


INCIDENTS = [founding_incident, ranks_incident, bare_incident]


@pytest.mark.parametrize("make", INCIDENTS)
def test_a_report_matches_its_schema(make: Any) -> None:
    jsonschema.validate(report_of(make()), load_schema("incident"))


@pytest.mark.parametrize(
    "field", ["verdict", "diagnosis", "remedies", "stack_groups", "waits", "signals", "output_tail", "fingerprint"]
)
def test_the_schema_refuses_a_report_without_a_field_of_the_contract(field: str) -> None:
    report = report_of(founding_incident())
    del report[field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, load_schema("incident"))


@pytest.mark.parametrize("make", INCIDENTS)
def test_the_first_screen_of_the_markdown_has_at_most_25_lines_and_all_answers(make: Any) -> None:
    screen = render_markdown(report_of(make())).split("## Evidence")[0]
    assert len(screen.splitlines()) <= 25
    for label in ("What hung", "Where", "Why", "Since", "Last progress", "How sure", "Done", "Next:"):
        assert label in screen


def test_the_first_screen_names_frame_path_cause_time_remedy_and_next_step() -> None:
    screen = render_markdown(report_of(founding_incident())).split("## Evidence")[0]
    for fact in (
        "create_new_function (/home/ana/venv/lib/python3.11/site-packages/unsloth_zoo/compiler.py:278)",
        "/home/ana/sft/unsloth_compiled_cache",
        "compile-cache-unusable",
        "2026-11-24 07:37:59 UTC",
        "3 min 12 s",
        "applied import-path (attempt 2 got past it in 4 s)",
        "pip install -U unsloth",
    ):
        assert fact in screen.replace("\\", "")


def test_evidence_that_was_asked_for_does_not_call_a_working_job_a_hang() -> None:
    incident = founding_incident()
    working = msgspec.structs.replace(incident.verdict, state=State.PROGRESSING, is_proven=False)
    report = report_of(msgspec.structs.replace(incident, verdict=working, outcomes=()))
    for text in (render_markdown(report), render_html(report)):
        screen = text.split("## Evidence")[0].split("<h2>Evidence")[0]
        assert "No hang was called." in screen
        assert "othing" in screen
        for claim in ("What hung", "waited out", "proven", "pip install -U unsloth"):
            assert claim not in screen


def test_no_secret_is_in_any_file_of_an_incident(tmp_path: Path) -> None:
    incident = founding_incident()
    assert write_incident(str(tmp_path / "01"), incident, Redactor(incident.environment)) == []
    assert main([str(tmp_path / "01")]) == 0
    files = [path for path in (tmp_path / "01").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"report.json", "report.md", "report.html", "evidence.json", "4242.txt", "4303.txt"}
    spellings = [*SECRETS.values(), json.dumps(SECRETS["DB_PASSWORD"])[1:-1]]
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        for spelling in spellings:
            assert spelling not in path.read_text()
    assert "EDITOR" not in (tmp_path / "01" / "evidence" / "evidence.json").read_text()


def test_an_incident_that_cannot_be_written_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "01").write_text("in the way")
    troubles = write_incident(str(tmp_path / "01"), bare_incident(), Redactor({}))
    assert [trouble.split(":")[0] for trouble in troubles] == ["report.json", "evidence.json"]


def test_rendering_is_not_led_astray_by_modules_in_the_jobs_directory(tmp_path: Path) -> None:
    for name in ("html.py", "msgspec.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('led astray')")
    write_incident(str(tmp_path / "01"), founding_incident(), Redactor(SECRETS))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(render_command(str(tmp_path / "01")), check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "01" / "report.html").exists()


def test_rendering_something_else_fails_with_a_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "No such file" in capfd.readouterr().err
    (tmp_path / "report.json").write_text('{"schema": "unsloth-watch/incident/9"}')
    assert main([str(tmp_path)]) == 1
    assert "incident/9" in capfd.readouterr().err
    (tmp_path / "report.json").write_text('{"schema": "unsloth-watch/incident/1"}')
    assert main([str(tmp_path)]) == 1
    assert "KeyError" in capfd.readouterr().err
    assert main([]) == 64


def test_identical_stacks_are_one_group_with_ranks_and_the_odd_rank_is_marked() -> None:
    groups = report_of(ranks_incident())["stack_groups"]
    assert [(group["ranks"], group["count"], group["is_culprit"], group["is_outlier"]) for group in groups[:2]] == [
        ("7", 1, True, True),
        ("0–6, 8–63", 63, False, False),
    ]
    assert groups[-1]["folded"] == "monitor of tqdm"
    assert sum(group["count"] for group in groups) == 129


def test_two_halves_of_the_ranks_have_no_outlier() -> None:
    evidence = Evidence(
        at=0.0,
        seconds=0.0,
        processes=tuple(
            ProcessEvidence(
                ref=ProcessRef(10 + rank, 1),
                ppid=1,
                environment={"RANK": str(rank)},
                threads=(thread(10 + rank, (frame("f", "x.py", rank % 2),)),),
            )
            for rank in range(8)
        ),
    )
    groups = group_stacks(evidence, None)
    assert [group["ranks"] for group in groups] == ["0, 2, 4, 6", "1, 3, 5, 7"]
    assert not any(group["is_outlier"] for group in groups)


def test_ranks_that_all_differ_have_no_outlier() -> None:
    processes = tuple(
        ProcessEvidence(
            ref=ProcessRef(10 + rank, 1),
            ppid=1,
            environment={"RANK": str(rank)},
            threads=(thread(10 + rank, (frame("f", "x.py", rank),)),),
        )
        for rank in range(8)
    )
    assert not any(group["is_outlier"] for group in group_stacks(Evidence(at=0.0, seconds=0.0, processes=processes), None))


def test_a_rank_is_the_topmost_process_that_has_it() -> None:
    processes = [
        ProcessEvidence(ref=ProcessRef(1, 1), ppid=0, environment={}),
        ProcessEvidence(ref=ProcessRef(2, 1), ppid=1, environment={"RANK": "3", "LOCAL_RANK": "1"}),
        ProcessEvidence(ref=ProcessRef(3, 1), ppid=2, environment={"RANK": "3", "LOCAL_RANK": "1"}),
        ProcessEvidence(ref=ProcessRef(4, 1), ppid=1, environment=None),
    ]
    assert find_ranks(processes) == {2: 3}


@given(numbers=st.sets(st.integers(0, 200)))
def test_ranges_hold_exactly_the_numbers(numbers: set[int]) -> None:
    shown: set[int] = set()
    for part in filter(None, format_ranges(numbers).split(", ")):
        first, _, last = part.partition("–")
        shown |= set(range(int(first), int(last or first) + 1))
    assert shown == numbers


def test_a_thread_that_works_is_never_folded_and_an_idle_one_is() -> None:
    groups = {
        group["frames"][0]["function"] if group["frames"] else "": group for group in report_of(founding_incident())["stack_groups"]
    }
    assert groups["create_new_function"]["folded"] is None
    assert groups["futex_wait"]["folded"] == "idle pool thread"
    assert groups["_recv"]["folded"] == "idle pool worker"
    assert groups[""]["folded"] == "no Python stack"


def waiting(
    pid: int, call: str, *args: int, descriptors: tuple[Descriptor, ...] = (), ppid: int = 1, state: str = "S"
) -> ProcessEvidence:
    main_thread = ThreadEvidence(tid=pid, name="MainThread", is_main=True, call=call, syscall_args=args, state=state)
    return ProcessEvidence(ref=ProcessRef(pid, 1), ppid=ppid, state=state, threads=(main_thread,), descriptors=descriptors)


def edges_of(*processes: ProcessEvidence) -> dict[int, dict[str, Any]]:
    return {edge["pid"]: edge for edge in list_waits(Evidence(at=0.0, seconds=0.0, processes=processes))}


def test_a_wait_for_a_pipe_names_the_other_end_and_a_wait_for_a_child_the_child() -> None:
    parent = waiting(10, "wait4", 11, descriptors=(Descriptor(3, "pipe:[7]", flags=0),))
    child = waiting(11, "write", 1, descriptors=(Descriptor(1, "pipe:[7]", flags=1),), ppid=10)
    edges = edges_of(parent, child)
    assert (edges[10]["kind"], edges[10]["pids"]) == ("child", [11])
    assert (edges[11]["kind"], edges[11]["pids"], edges[11]["peer"]) == ("pipe", [10], "pipe:[7]")


def test_waiting_for_any_child_names_the_children_and_a_zombie_is_called_one() -> None:
    assert edges_of(waiting(10, "wait4", 0xFFFFFFFFFFFFFFFF), waiting(11, "read", ppid=10))[10]["pids"] == [11]
    assert "zombie" in edges_of(waiting(10, "waitid", 1, 11), waiting(11, "", ppid=10, state="Z"))[10]["for"]
    assert "not in the job" in edges_of(waiting(10, "wait4", 99))[10]["for"]


def test_a_socket_wait_names_the_peer_and_a_stopped_process_its_way_out() -> None:
    descriptor = Descriptor(4, "socket:[9]", peer="tcp 10.0.0.1:4000 → 10.0.0.2:443 ESTABLISHED")
    assert "10.0.0.2:443" in edges_of(waiting(10, "recvfrom", 4, descriptors=(descriptor,)))[10]["for"]
    assert "SIGCONT" in edges_of(waiting(10, "", state="T"))[10]["for"]


def test_a_file_lock_held_outside_names_the_holder() -> None:
    (edge,) = [edge for edge in report_of(ranks_incident())["waits"] if edge["kind"] == "file-lock"]
    assert (edge["pid"], edge["pids"], edge["path"]) == (1007, [555], "/nfs/hub/.locks/x.lock")
    assert "python other.py" in edge["for"]


def test_signals_are_rates_before_the_verdict_and_unknown_is_null() -> None:
    signals = report_of(founding_incident())["signals"]
    series = {one["id"]: one["values"] for one in signals["series"]}
    times = signals["times"]
    assert times[-1] == 0.0
    assert len(times) <= 240
    assert all(len(values) == len(times) for values in series.values())
    assert series["cpu"][0] is None
    assert series["cpu"][5] == pytest.approx(1.0)
    assert series["cpu"][-1] == pytest.approx(0.035)
    assert [mark["id"] for mark in signals["marks"]] == ["progress", "suspected", "verdict"]
    gap = [Sample(at=1.0, wall=0.0, processes=None), Sample(at=2.0, wall=0.0, processes=None)]
    assert build_signals(gap, bare_incident().verdict)["series"] == []


@pytest.mark.parametrize(("processes", "most"), [(1, 480), (1000, 25)])
def test_a_report_keeps_few_samples_to_plot_and_the_last_of_them(processes: int, most: int) -> None:
    one = ProcessSample(ProcessRef(1, 1), 0, "python", "S", 0.0, 0.0, 0.0, 0, 0, 0, 1, 0)
    verdict = msgspec.structs.replace(bare_incident().verdict, at=1000.0, quiet_s=400.0)
    samples = [Sample(at=number / 2, wall=0.0, processes=(one,) * processes) for number in range(2004)]
    kept = keep_plotted(iter(samples), verdict)
    assert (kept[0].at, kept[-1].at) == (200.0, 1000.0)
    assert 12 <= len(kept) <= most
    assert len({after.at - before.at for before, after in itertools.pairwise(kept[:-1])}) == 1


def test_the_tail_of_the_output_is_what_a_terminal_would_show() -> None:
    assert clean_tail("\x1b[31ma\x1b[0m\n10%\r20%\r30%\nb\x07\r\n\n\n") == "a\n30%\nb"
    assert clean_tail("\x1b]0;title\x07x") == "x"
    assert clean_tail("\n".join(map(str, range(100)))).split("\n") == [str(number) for number in range(40, 100)]
    assert clean_tail("") == ""
    assert len(clean_tail("x" * 10_000)) < 600


def test_stacks_as_text_read_like_those_of_py_spy() -> None:
    text = render_stacks(founding_incident().evidence.processes[0])
    assert re.search(r'^Thread 4242 \(S, sleeps 10 ms\): "MainThread"$', text, re.MULTILINE)
    assert "    load_model (/home/ana/sft/scripts/train.py:31)\n" in text
    assert "(no Python stack)" in text
    named = thread(1, (msgspec.structs.replace(frame("f", "x.py", 1), locals={"n": "3"}),), has_gil=True)
    text = render_stacks(ProcessEvidence(ref=ProcessRef(1, 1), ppid=0, threads=(named,)))
    assert "holds the GIL" in text
    assert "        n = 3" in text


def test_remedies_are_shown_as_commands_and_a_repair_in_place_says_so() -> None:
    remedy = Remedy("r", "why", "live", environment={"A": "b c", "D": None}, quarantine=("/x y",), make_directories=("/m",))
    incident = msgspec.structs.replace(
        bare_incident(), diagnosis=msgspec.structs.replace(bare_incident().diagnosis, remedies=(remedy,))
    )
    (shown,) = report_of(incident)["remedies"]
    assert shown["change"] == ["export A='b c'", "unset D", "mkdir -p /m", "mv '/x y' '/x y.quarantined'"]
    assert shown["applied"] is False


signs = [*"`*_[]()<>|\\~&#@!-$\"'\n\r\0\u2028 ab1", "```", "~~~", "</details>", "<b>", "\x1b", "\ud800"]
foreign = st.lists(st.sampled_from(signs), max_size=30).map("".join)


@given(text=foreign)
def test_foreign_prose_stays_on_its_line_and_starts_no_markup(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[|~]", escaped)
    assert not re.search(r"@[A-Za-z0-9]", escaped)


@given(text=foreign)
def test_foreign_code_cannot_leave_its_span_or_its_fence(text: str) -> None:
    assert "|" not in code(text, is_cell=True)
    span = code(text)
    marks = re.match(r"`+", span)
    assert marks is not None
    inside = span[len(marks.group()) : -len(marks.group())]
    assert marks.group() not in re.findall(r"`+", inside)
    assert "\n" not in span
    block = fence(text).split("\n")
    closing = block[-1]
    assert not any(line.strip().startswith(closing) for line in block[1:-1])


@given(text=foreign)
def test_foreign_text_anywhere_never_becomes_a_tag(text: str) -> None:
    incident = bare_incident()
    evil = f"{text}{EVIL}"
    diagnosis = msgspec.structs.replace(incident.diagnosis, title=evil, summary=evil, cause=evil, alternatives=(evil,))
    process = ProcessEvidence(
        ref=ProcessRef(1, 1), ppid=0, command=(evil,), threads=(thread(1, (frame(evil, evil, 1),), name=evil),)
    )
    evidence = Evidence(at=0.0, seconds=0.0, processes=(process,), versions={evil: evil}, kernel_log=(evil,), missing=(evil,))
    incident = msgspec.structs.replace(incident, diagnosis=diagnosis, evidence=evidence, output_tail=evil, cwd=evil, run=evil)
    report = build_report(incident, Redactor({}))
    page = render_html(report)
    assert "<script" not in page
    assert "<img" not in page
    page.encode()
    for line in outside_fences(render_markdown(report)):
        assert "<script" not in re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert "<img" not in re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)


def outside_fences(markdown: str) -> list[str]:
    """Return the lines that Markdown interprets, by GitHub's rule for fences."""
    lines, closing = [], ""
    for line in markdown.split("\n"):
        marks = re.match(r" *(`{3,})", line)
        if closing:
            if marks and len(marks[1]) >= len(closing) and not line.strip().strip("`"):
                closing = ""
        elif marks and "`" not in line.strip()[len(marks[1]) :]:
            closing = marks[1]
        else:
            lines.append(line)
    assert not closing, "a fence is open at the end"
    return lines


def test_the_markdown_of_a_huge_incident_fits_into_an_issue() -> None:
    incident = ranks_incident()
    processes = tuple(
        ProcessEvidence(
            ref=ProcessRef(rank + 10, 1),
            ppid=1,
            command=("x" * 5000,),
            threads=(thread(rank + 10, tuple(frame(f"f{rank}", "y" * 3000, line) for line in range(90)), wait="w" * 900),),
            missing=(),
        )
        for rank in range(300)
    )
    evidence = Evidence(at=0.0, seconds=0.0, processes=processes, kernel_log=("k" * 900,) * 90, locks=incident.evidence.locks * 90)
    environment = {f"HF_{number}": "v" * 900 for number in range(90)}
    diagnosis = msgspec.structs.replace(incident.diagnosis, summary="s" * 90_000)
    incident = msgspec.structs.replace(
        incident,
        evidence=evidence,
        environment=environment,
        diagnosis=diagnosis,
        command=("x" * 90_000,),
        output_tail="o" * 400 + "\n" + ("p" * 400 + "\n") * 90,
    )
    markdown = render_markdown(report_of(incident))
    assert len(markdown) < 65_536
    assert "more groups in report.html" in markdown
    outside_fences(markdown)


def test_only_a_live_remedy_that_worked_is_called_a_repair() -> None:
    remedy = Remedy("drain-pipe", "why", "live")
    for worked in (True, False, None):
        outcome = RemedyOutcome(remedy, applied=True, worked=worked)
        page = render_html(report_of(msgspec.structs.replace(bare_incident(), outcomes=(outcome,))))
        assert ("repaired without a kill" in page) == (worked is True)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0, "B", "0 B"),
        (1536, "B/s", "1.5 KiB/s"),
        (2**41, "B", "2 TiB"),
        (0.0351, "cores", "0.0351 cores"),
        (1.0, "cores", "1 core"),
        (100, "%", "100 %"),
    ],
)
def test_quantities_are_short(value: float, unit: str, words: str) -> None:
    assert format_quantity(value, unit) == words


def make_run(tmp_path: Path) -> Path:
    run = tmp_path / "run-1"
    write_incident(str(run / "incidents" / "01"), founding_incident(), Redactor(SECRETS))
    (run / "run.json").write_text("{}")
    (run / "output.log").write_text(f"hello {SECRETS['HF_TOKEN']}\n")
    (run / "events.jsonl").symlink_to("/etc/passwd")
    (run / "incidents" / "01" / "evidence" / "link").symlink_to("/etc/passwd")
    return run


def test_a_bundle_holds_the_incident_and_no_links_owners_or_secrets(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = build_bundle(str(run), 1, Redactor(SECRETS))
    path = build_bundle(str(run), 1, Redactor(SECRETS))  # a second one does not hold the first
    assert path == str(run / "incidents" / "01" / "bundle.tar.gz")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        names = {member.name for member in members}
        output = archive.extractfile("run-1-01/output.log")
        assert output is not None
        assert output.read() == "hello ‹token-1›\n".encode()
    assert {"run-1-01/report.json", "run-1-01/stacks/4242.txt", "run-1-01/evidence/evidence.json", "run-1-01/run.json"} <= names
    assert not any("bundle" in name or "link" in name or "events" in name for name in names)
    assert all(member.isreg() and member.uid == 0 and not member.uname for member in members)


def test_a_bundle_leaves_out_what_was_drained_from_a_pipe_of_the_job(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    kept = run / "incidents" / "01" / "kept" / "pipe-1-to-2-3.bytes"
    kept.parent.mkdir()
    kept.write_text("raw bytes of the job")
    with tarfile.open(build_bundle(str(run), 1, Redactor(SECRETS))) as archive:
        assert not any("kept" in name for name in archive.getnames())


def test_a_bundle_without_a_redactor_leaves_the_output_out(tmp_path: Path) -> None:
    with tarfile.open(build_bundle(str(make_run(tmp_path)), 1)) as archive:
        assert "run-1-01/output.log" not in archive.getnames()


def test_a_bundle_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    script = """
import resource, signal, sys
from unsloth_watch.tell.bundle import build_bundle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (80, resource.RLIM_INFINITY))
try:
    build_bundle(sys.argv[1], 1)
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script, run], capture_output=True, check=True)
    assert done.stdout.strip() == b"27"
    assert sorted(os.listdir(run / "incidents" / "01")) == ["evidence", "report.json", "stacks"]
