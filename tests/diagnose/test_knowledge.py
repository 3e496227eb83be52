"""Every entry of the knowledge of libraries is found in a stack, spoken by the rule it is for, and refuted by another version."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from diagnose.recordedcases import HUNG
from environments import load_script
from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.knowledge import CAUSES, KINDS, KnownFrame, find_known, known_frames, read_knowledge
from unsloth_watch.diagnose.libraryremedies import SETTINGS
from unsloth_watch.diagnose.networkstall import NetworkStall
from unsloth_watch.diagnose.recall import recall
from unsloth_watch.diagnose.stdinwait import StdinWait
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Status
from unsloth_watch.model.evidence import Connection, Descriptor, Evidence, Frame, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.release import is_within, read_version

pytestmark = pytest.mark.quick

ENTRIES = [entry for kind in sorted(KINDS) for entry in known_frames(kind)]
NOTES = [entry for entry in ENTRIES if entry.kind == "note"]
LIBRARIES = {
    *("unsloth", "unsloth_zoo", "transformers", "trl", "datasets", "accelerate", "huggingface_hub", "torch", "triton", "wandb"),
    *("vllm", "tokenizers", "filelock", "bitsandbytes"),
}


def place_of(entry: KnownFrame) -> Frame:
    """A frame as py-spy shows it for an installed library."""
    module = entry.module.replace(".*", ".inner").replace(".", "/")
    function = entry.functions[0] if entry.functions else "work"
    return Frame(f"Something.{function}", f"/opt/envs/lib/python3.11/site-packages/{module}.py", 12)


def version_for(entry: KnownFrame) -> str | None:
    """A version that the entry is about; None where it is about all."""
    if not entry.versions:
        return None
    bounds = re.findall(r"\d+(?:\.\d+)*", entry.versions)
    tried = [*bounds, *(f"{bound}.1" for bound in bounds), "0.1"]
    return next(version for version in tried if is_within(version, entry.versions))


def case_for(entry: KnownFrame, **changes: object) -> Case:
    thread = ThreadEvidence(
        7, "MainThread", is_main=True, frames=(place_of(entry), Frame("main", "/home/user/job/train.py", 3)), state="S"
    )
    thread = msgspec.structs.replace(thread, **changes)
    descriptors = (
        Descriptor(0, "pipe:[1]"),
        Descriptor(3, "socket:[2]", connection=Connection("tcp", "10.0.0.1:4000", "10.0.0.2:443", "ESTABLISHED")),
    )
    process = ProcessEvidence(ProcessRef(7, 1), 1, threads=(thread,), descriptors=descriptors, environment={})
    version = version_for(entry)
    versions = {entry.library: version} if version else {}
    return Case(Evidence(0.0, 0.1, (process,), root=process.ref, versions=versions), HUNG)


def test_every_library_that_is_promised_has_an_entry():
    assert {entry.library for entry in ENTRIES} >= LIBRARIES


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.id for entry in ENTRIES])
def test_an_entry_is_found_in_its_own_place_and_nowhere_else(entry: KnownFrame):
    frame = place_of(entry)
    assert entry.matches(frame)
    assert not entry.matches(Frame(frame.function, "/home/user/job/train.py", 1))
    if entry.functions:
        assert not entry.matches(msgspec.structs.replace(frame, function="something_else"))
    found = find_known(entry.kind, [Frame("f", "/home/user/job/train.py", 1), frame])
    assert found is not None
    assert found.module == entry.module or entry.kind in {"lock-poll", "note", "network", "input"}


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.id for entry in ENTRIES])
def test_an_entry_reads_as_a_sentence_and_names_a_report_that_looks_like_one(entry: KnownFrame):
    assert re.match(r"[a-z]+s\b|is\b", entry.meaning), "it is said after a library's name: «unsloth 1.0 waits for …»"
    assert not entry.meaning.endswith(".")
    assert not entry.issue or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", entry.issue)
    assert not entry.upgrade or entry.upgrade.startswith(entry.library)


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if entry.versions], ids=[entry.id for entry in ENTRIES if entry.versions]
)
def test_an_entry_with_versions_excludes_others(entry: KnownFrame):
    assert entry.applies(version_for(entry)) is True
    assert entry.applies(None) is None
    assert any(entry.applies(version) is False for version in ("0.0.1", "2024.1", "2025.3.1.1", "9999.1"))


@pytest.mark.parametrize("entry", NOTES, ids=[entry.id for entry in NOTES])
def test_a_note_is_said_beside_its_causes_and_beside_no_other(entry: KnownFrame):
    case = case_for(entry)

    def said(cause: str) -> list[str]:
        bare = Diagnosis(cause, "t", "s", Status.SUPPORTED, 0.7, culprit=Culprit("process", pid=7))
        return [item.statement for item in recall(case, bare).evidence]

    for cause in entry.causes:
        assert any(entry.meaning in statement for statement in said(cause))
    other = next(cause for cause in sorted(CAUSES) if cause not in entry.causes)
    assert not any(entry.meaning in statement for statement in said(other))


@pytest.mark.parametrize("entry", [entry for entry in NOTES if entry.versions], ids=[e.id for e in NOTES if e.versions])
def test_a_note_about_other_versions_is_not_said(entry: KnownFrame):
    wrong = next(version for version in ("0.0.1", "9999.1") if entry.applies(version) is False)
    case = case_for(entry)
    case = msgspec.structs.replace(case, evidence=msgspec.structs.replace(case.evidence, versions={entry.library: wrong}))
    bare = Diagnosis(entry.causes[0], "t", "s", Status.SUPPORTED, 0.7, culprit=Culprit("process", pid=7))
    assert recall(case, bare) == bare


@pytest.mark.parametrize("entry", known_frames("network"), ids=[entry.id for entry in known_frames("network")])
def test_a_known_caller_of_the_network_is_named_by_what_it_does(entry: KnownFrame):
    case = case_for(entry, call="recvfrom", wait="receives from fd 3 → socket:[2]", wait_fds=(3,))
    diagnosis = NetworkStall().judge(case)
    assert diagnosis is not None
    assert entry.meaning in diagnosis.summary


@pytest.mark.parametrize("entry", known_frames("input"), ids=[entry.id for entry in known_frames("input")])
def test_a_known_question_is_named_by_what_it_asks(entry: KnownFrame):
    diagnosis = StdinWait().judge(case_for(entry, call="read", wait="reads", wait_fds=(0,)))
    assert diagnosis is not None
    assert entry.meaning in diagnosis.summary


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_that_is_there_already_is_not_proposed_again(name: str):
    process = case_for(ENTRIES[0]).processes[0]
    remedy = SETTINGS[name](process, None)
    if remedy is None or not remedy.environment:
        assert remedy is None or remedy.advice
        return
    assert remedy.why
    settled = msgspec.structs.replace(process, environment={key: value or "" for key, value in remedy.environment.items()})
    assert SETTINGS[name](settled, None) is None


def test_inductors_pool_is_switched_off_by_advice_where_unsloth_would_remove_the_variable():
    process = case_for(ENTRIES[0]).processes[0]
    plain = SETTINGS["single-compile-thread"](process_with(process, "/opt/lib/python3.11/site-packages/torch/x.py"), None)
    unsloth = SETTINGS["single-compile-thread"](process_with(process, "/opt/lib/python3.11/site-packages/unsloth/x.py"), None)
    assert plain is not None
    assert plain.kind == "environment"
    assert unsloth is not None
    assert unsloth.kind == "advice"


def process_with(process: ProcessEvidence, file: str) -> ProcessEvidence:
    thread = ThreadEvidence(7, "MainThread", is_main=True, frames=(Frame("f", file, 1),))
    return msgspec.structs.replace(process, threads=(thread,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('id = "a"\nkind = "inptu"\nmodule = "m"\nmeaning = "x"', "a: kind 'inptu' is not known; did you mean 'input'?"),
        ('id = "a"\nkind = "input"\nmodule = "m"\nmeaning = "x"\nremedies = ["none-such"]', "a: remedy 'none-such' is not known"),
        (
            'id = "a"\nkind = "input"\nmodule = "m"\nmeaning = "x"\ncauses = ["busy-loop"]',
            "a: causes and kind 'note' belong together",
        ),
        (
            'id = "a"\nkind = "note"\nmodule = "m"\nmeaning = "x"\ncauses = ["busyloop"]',
            "a: causes 'busyloop' is not known; did you mean",
        ),
        ('id = "a"\nkind = "input"\nmodule = "m"\nmeaning = "x"\nversions = ">1"', "need a library"),
        ('id = "a"\nkind = 3\nmodule = "m"\nmeaning = "x"', "a: Expected `str`, got `int`"),
        ('kind = "input"\nmodule = "m"\nmeaning = "x"', "without an id: Object missing required field `id`"),
    ],
)
def test_a_faulty_entry_is_refused_with_its_name_and_what_is_wrong(text: str, words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_knowledge(f"[[frame]]\n{text}\n".encode())


def test_the_entries_about_installed_libraries_name_functions_that_are_there():
    """Checked against the sources of the environment ``modern``, where it is built."""
    locate = load_script().locate
    roots = [path for name in ("modern", "base") for path in Path(locate(name)).glob("lib/python*/site-packages")]
    checked = 0
    for entry in ENTRIES:
        version = _installed(roots, entry.library)
        if version is None or entry.applies(version) is False or entry.module.endswith(".*"):
            continue
        files = [root / f"{entry.module.replace('.', '/')}{end}" for root in roots for end in (".py", "/__init__.py")]
        sources = [file.read_text() for file in files if file.exists()]
        assert sources, f"{entry.id}: there is no module {entry.module} in {entry.library} {version}"
        for function in entry.functions:
            assert any(f"def {function}(" in source for source in sources), f"{entry.id}: no function {function} in {entry.module}"
        checked += 1
    if not any(Path(locate("modern")).glob("lib/python*/site-packages")):  # ``base`` alone, which the demo builds, has but a few
        pytest.skip("the environment with the real libraries is not built; scripts/environments.py modern builds it")
    assert checked >= 10


def _installed(roots: list[Path], library: str) -> str | None:
    names = {library, library.replace("_", "-"), library.replace("-", "_")}
    for root in roots:
        for path in root.glob("*.dist-info"):
            name, _, version = path.name.removesuffix(".dist-info").partition("-")
            if name in names and read_version(version) is not None:
                return version
    return None
