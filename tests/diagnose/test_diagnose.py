from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose.recordedcases import HUNG, NAMES, case_of
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.diagnose.fingerprint import fingerprint, normalise
from unsloth_watch.diagnose.frames import find_frames, is_module, module_of, read_look
from unsloth_watch.diagnose.knowledge import KINDS, known_frames, read_knowledge
from unsloth_watch.diagnose.remedies import REMEDIES
from unsloth_watch.diagnose.rules import RULES
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Status
from unsloth_watch.model.evidence import Evidence, Frame
from unsloth_watch.model.sample import Look

pytestmark = pytest.mark.quick


class Broken:
    id = "broken"

    def judge(self, case: Case) -> Diagnosis | None:
        raise ZeroDivisionError


def test_a_rule_that_fails_is_said_and_costs_nobody_elses_answer():
    diagnosis = diagnose(case_of("founding"), (Broken(), *RULES))
    assert diagnosis.cause == "compile-cache-unusable"
    assert any("broken: the rule itself failed" in words for words in diagnosis.alternatives)


def test_without_any_evidence_the_cause_is_unknown_and_has_a_fingerprint():
    diagnosis = diagnose(Case(Evidence(0.0, 0.0, ())))
    assert diagnosis.cause == "unknown"
    assert len(diagnosis.fingerprint) == 16


def test_other_explanations_are_kept_as_alternatives():
    case = case_of("founding")
    stopped = msgspec.structs.replace(case.evidence.processes[0], state="T")
    diagnosis = diagnose(msgspec.structs.replace(case, evidence=msgspec.structs.replace(case.evidence, processes=(stopped,))))
    assert diagnosis.cause == "process-stopped"
    assert any(words.startswith("compile-cache-unusable: as firm") for words in diagnosis.alternatives)


def drop(value: Any, data: st.DataObject) -> Any:
    """Take a few things out of a structure of builtins."""
    if isinstance(value, dict):
        kept = {name: drop(item, data) for name, item in value.items()}
        if kept and data.draw(st.integers(0, 3)) == 0:
            kept.pop(data.draw(st.sampled_from(sorted(kept))))
        return kept
    if isinstance(value, list):
        kept_items = [drop(item, data) for item in value]
        if kept_items and data.draw(st.integers(0, 3)) == 0:
            kept_items = kept_items[: data.draw(st.integers(0, len(kept_items) - 1))]
        return kept_items
    return value


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), has_verdict=st.booleans(), data=st.data())
def test_no_rule_raises_on_evidence_with_holes(name: str, has_verdict: bool, data: st.DataObject):
    case = case_of(name, HUNG if has_verdict else None)
    raw = drop(msgspec.to_builtins(case.evidence), data)
    try:
        evidence = msgspec.convert(raw, Evidence, strict=False)
    except msgspec.ValidationError:
        return  # a hole in what the border types require cannot cross the border
    looks = case.looks[: data.draw(st.integers(0, len(case.looks)))]
    for rule in RULES:
        rule.judge(msgspec.structs.replace(case, evidence=evidence, looks=looks))


def test_the_same_hang_has_the_same_fingerprint_whichever_moment_was_caught():
    case = case_of("founding")
    process = case.evidence.processes[0]
    (thread,) = (thread for thread in process.threads if thread.is_main)
    inner = (
        Frame("_path_stat", "<frozen importlib._bootstrap_external>", 147),
        Frame("import_module", "/opt/python/lib/python3.11/importlib/__init__.py", 126),
    )
    edited = tuple(msgspec.structs.replace(frame, line=frame.line + 7) for frame in thread.frames if not frame.is_native)
    moved = msgspec.structs.replace(thread, frames=(*inner, *edited))
    later = msgspec.structs.replace(
        process, threads=(moved,), ref=msgspec.structs.replace(process.ref, pid=process.ref.pid + 1, start_ticks=7)
    )
    again = Case(msgspec.structs.replace(case.evidence, processes=(later,), root=later.ref), HUNG)
    assert diagnose(again).fingerprint == diagnose(case).fingerprint


def test_different_hangs_have_different_fingerprints():
    found = {name: diagnose(case_of(name, HUNG)).fingerprint for name in NAMES}
    assert len(set(found.values())) == len(found)


def test_a_fingerprint_does_not_depend_on_the_spelling_of_method_names():
    culprit = Culprit(kind="path")
    first = fingerprint("x", culprit, (Frame("FileBaton.wait", "/a/site-packages/torch/utils/file_baton.py", 50),))
    second = fingerprint("x", culprit, (Frame("wait", "/b/site-packages/torch/utils/file_baton.py", 48),))
    assert first == second
    assert first != fingerprint("x", culprit, (Frame("release", "/a/site-packages/torch/utils/file_baton.py", 50),))


def test_numbers_and_long_hexadecimal_words_are_taken_out_of_paths():
    assert normalise("/tmp/run-12/ab12cd34ef56/lock") == "/tmp/run-#/#/lock"
    assert normalise("/data/facade/lock") == "/data/facade/lock"


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("/env/lib/python3.11/site-packages/unsloth_zoo/compiler.py", "unsloth_zoo.compiler"),
        ("/env/lib/python3.11/site-packages/filelock/__init__.py", "filelock"),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", "yaml"),
        ("/usr/lib/python3.11/threading.py", "threading"),
        ("<frozen importlib._bootstrap>", "importlib"),
        ("/home/user/train.py", None),
    ],
)
def test_a_files_module_is_read_from_its_path(file: str, module: str | None):
    assert module_of(file) == module


def test_an_editable_install_is_recognised_by_the_end_of_its_path():
    assert is_module("/home/user/src/unsloth_zoo/compiler.py", "unsloth_zoo.compiler")
    assert is_module("/home/user/src/filelock/_api.py", "filelock.*")
    assert not is_module("/home/user/my_filelock/_api.py", "filelock.*")
    assert not is_module("/home/user/recompiler.py", "compiler")


def test_a_method_is_found_under_its_plain_name():
    found = list(find_frames(case_of("stale-baton").processes, "torch.utils.file_baton", ["wait"]))
    assert [sighting.frame.function for sighting in found] == ["FileBaton.wait"]


def test_a_look_is_read_back_into_frames():
    look = Look(case_of("sleep").evidence.processes[0].ref, "0", ("f (a) (/x (1).py:3)", "native (libc.so.6)", "odd"), False)
    assert read_look(look) == (Frame("f (a)", "/x (1).py", 3), Frame("native", "libc.so.6", 0))


def test_the_knowledge_is_sound_and_every_remedy_it_names_exists():
    frames = [frame for kind in KINDS for frame in known_frames(kind)]
    assert len(frames) > 10
    for frame in frames:
        assert set(frame.remedies) <= REMEDIES


@pytest.mark.parametrize(
    "text",
    [
        'frame = [{id = "a", kind = "lock-poll", module = "m", meaning = "x", versions = "about 3"}]',
        'frame = [{id = "a", kind = "sorcery", module = "m", meaning = "x"}]',
        'frame = [{id = "a", kind = "lock-poll", module = "m", meaning = "x", colour = "red"}]',
        'frame = [{id = "a", kind = "input", module = "m", meaning = "x"}, {id = "a", kind = "input", module = "n", meaning = "x"}]',
    ],
)
def test_knowledge_that_is_wrong_is_refused(text: str):
    with pytest.raises(ValueError, match=r"."):
        read_knowledge(text.encode())


def test_every_diagnosis_says_its_evidence_and_what_would_refute_it():
    for name in NAMES:
        diagnosis = diagnose(case_of(name, HUNG))
        assert diagnosis.summary.endswith(".")
        if diagnosis.status is not Status.UNKNOWN:
            assert diagnosis.evidence
            assert diagnosis.refuted_by
