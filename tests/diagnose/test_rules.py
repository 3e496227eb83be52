from __future__ import annotations

import msgspec
import pytest

from diagnose.recordedcases import HUNG, case_of, replace, replace_probe
from unsloth_watch.diagnose import diagnose
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.sample import Look

pytestmark = pytest.mark.quick


def remedies_of(diagnosis: Diagnosis) -> list[str]:
    return [remedy.id for remedy in diagnosis.remedies]


def test_the_founding_hang_is_established_and_named_with_its_version_and_its_missing_import_path():
    diagnosis = diagnose(case_of("founding"))
    assert (diagnosis.cause, diagnosis.status) == ("compile-cache-unusable", Status.ESTABLISHED)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.path == "/home/user/job/unsloth_compiled_cache"
    assert "create_new_function" in (diagnosis.culprit.frame or "")
    assert "unsloth_zoo 2025.3.1" in diagnosis.summary
    assert "PYTHONPATH=/home/user/job" in diagnosis.summary


def test_the_founding_diagnosis_says_that_creating_the_directory_would_not_help():
    statements = [item.statement for item in diagnose(case_of("founding")).evidence]
    assert any("to create it would not help" in statement and "/home/user/job/scripts" in statement for statement in statements)


def test_the_founding_remedy_is_the_import_path_and_never_a_redirect_that_the_version_does_not_know():
    remedies = diagnose(case_of("founding")).remedies
    assert remedies[0].id == "import-path"
    assert remedies[0].prepend_path == {"PYTHONPATH": "/home/user/job"}
    assert not any("UNSLOTH_COMPILE_LOCATION" in remedy.environment for remedy in remedies)
    assert all("2025.3.1" in remedy.why for remedy in remedies)


def test_a_program_that_ignores_its_environment_is_not_given_variables():
    case = case_of("founding")
    process = case.evidence.processes[0]
    command = (process.command[0], "-I", *process.command[1:])
    case = replace(case, processes=(msgspec.structs.replace(process, command=command), *case.evidence.processes[1:]))
    assert "import-path" not in remedies_of(diagnose(case))


def test_a_healthy_import_in_the_same_function_is_not_taken_for_the_founding_hang():
    case = case_of("founding-healthy")
    frames = case.evidence.processes[0].threads[0].frames
    assert any(frame.function == "create_new_function" for frame in frames)
    assert diagnose(case).cause == "unknown"
    assert diagnose(msgspec.structs.replace(case, verdict=HUNG)).cause == "unknown"


def test_the_same_frame_without_looks_or_verdict_is_supported_only():
    case = msgspec.structs.replace(case_of("founding"), looks=())
    assert diagnose(case).status is Status.SUPPORTED
    assert diagnose(msgspec.structs.replace(case, verdict=HUNG)).status is Status.ESTABLISHED


def test_one_look_elsewhere_takes_the_certainty_away():
    case = case_of("founding")
    elsewhere = Look(case.evidence.processes[0].ref, "00000000", ("step (/home/user/job/scripts/train.py:44)",), False)
    diagnosis = diagnose(msgspec.structs.replace(case, looks=(*case.looks, elsewhere)))
    assert diagnosis.status is Status.HYPOTHESIS
    assert diagnosis.remedies == ()


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2025.2.7", Status.SUPPORTED),  # three tries of a few seconds: slow, and it ends
        ("2025.3.1", Status.ESTABLISHED),
        ("2025.3.2", Status.ESTABLISHED),
        ("2025.3.7", Status.ESTABLISHED),
    ],
)
def test_the_status_follows_what_the_installed_version_does(version: str, status: Status):
    case = case_of("founding")
    diagnosis = diagnose(replace(case, versions={**case.evidence.versions, "unsloth_zoo": version}))
    assert (diagnosis.cause, diagnosis.status) == ("compile-cache-unusable", status)
    assert remedies_of(diagnosis) == ["import-path"]


def test_versions_since_the_rewrite_are_not_accused():
    case = case_of("founding")
    assert diagnose(replace(case, versions={**case.evidence.versions, "unsloth_zoo": "2025.3.8"})).cause == "unknown"


def test_an_unknown_version_is_never_established():
    case = case_of("founding")
    diagnosis = diagnose(replace(case, versions={}))
    assert (diagnosis.cause, diagnosis.status) == ("compile-cache-unusable", Status.SUPPORTED)
    assert "version unknown" in diagnosis.summary


def test_a_cache_that_was_not_probed_is_never_established():
    assert diagnose(replace(case_of("founding"), caches=())).status is Status.SUPPORTED


def test_a_package_in_the_way_is_named_and_moved_aside():
    diagnosis = diagnose(case_of("founding-shadowed"))
    assert diagnosis.status is Status.ESTABLISHED
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.path == "/home/user/job/scripts/unsloth_compiled_cache"
    assert remedies_of(diagnosis) == ["quarantine-shadow"]
    assert diagnosis.remedies[0].quarantine == ("/home/user/job/scripts/unsloth_compiled_cache",)
    assert diagnosis.remedies[0].prepend_path == {"PYTHONPATH": "/home/user/job"}


def test_a_foreign_package_outside_of_the_jobs_directory_is_never_moved():
    case = replace_probe(case_of("founding-shadowed"), "unsloth-compiled", shadowed_by="/opt/lib/unsloth_compiled_cache")
    (remedy,) = diagnose(case).remedies
    assert (remedy.id, remedy.kind, remedy.quarantine) == ("remove-shadow", "advice", ())
    assert "/opt/lib/unsloth_compiled_cache" in remedy.advice


def test_a_place_that_cannot_be_written_is_supported_and_left_to_a_person():
    case = replace_probe(
        case_of("founding"), "unsloth-compiled", is_writable=False, is_importable=True, problems=("its disk is full",)
    )
    diagnosis = diagnose(case)
    assert diagnosis.status is Status.SUPPORTED
    assert "its disk is full" in diagnosis.summary
    assert [remedy.kind for remedy in diagnosis.remedies] == ["advice"]


def test_the_lock_of_todays_library_is_established_from_holder_and_poll_loop():
    diagnosis = diagnose(case_of("modern-lock"))
    assert (diagnosis.cause, diagnosis.status) == ("lock-held-elsewhere", Status.ESTABLISHED)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.path == "/home/user/job/unsloth_compiled_cache/.locks/.lock.tiny.py"
    assert diagnosis.culprit.pid not in {process.ref.pid for process in case_of("modern-lock").processes}
    assert remedies_of(diagnosis) == ["redirect-compile-cache", "default-lock-timeout", "end-holder"]
    assert diagnosis.remedies[1].environment == {"UNSLOTH_LOCK_TIMEOUT": None}
    assert diagnosis.remedies[0].environment == {"UNSLOTH_COMPILE_LOCATION": "{private}/unsloth_compiled_cache"}


def test_a_poll_loop_is_not_held_elsewhere_when_the_holder_belongs_to_the_job():
    case = case_of("modern-lock")
    probe = case.caches("unsloth-compiled")[0]
    own = case.evidence.processes[0].ref.pid
    mine = tuple(msgspec.structs.replace(lock, pid=own, is_inside=True) for lock in probe.lock_holders)
    assert probe.lock_holders
    assert diagnose(replace(replace_probe(case, "unsloth-compiled", lock_holders=mine), locks=())).cause == "unknown"


def test_two_possible_locks_are_supported_only():
    case = case_of("modern-lock")
    (lock,) = case.caches("unsloth-compiled")[0].lock_holders
    other = msgspec.structs.replace(lock, inode=lock.inode + 1, path=f"{lock.path}.other")
    assert diagnose(replace_probe(case, "unsloth-compiled", lock_holders=(lock, other))).status is Status.SUPPORTED


def test_a_version_that_does_not_know_the_variable_is_not_redirected():
    case = case_of("modern-lock")
    for version, is_known in (("2025.7.10", False), ("2025.7.11", True)):
        diagnosis = diagnose(replace(case, versions={**case.evidence.versions, "unsloth_zoo": version}))
        assert ("redirect-compile-cache" in remedies_of(diagnosis)) is is_known


def test_a_blocked_flock_is_established_from_the_kernels_own_words():
    diagnosis = diagnose(case_of("flock-blocked"))
    assert (diagnosis.cause, diagnosis.status) == ("lock-held-elsewhere", Status.ESTABLISHED)
    assert "/home/user/job/shared.lock" in diagnosis.summary
    assert remedies_of(diagnosis) == ["end-holder"]


def test_a_lock_file_without_an_owner_is_supported_and_quarantined_only_after_the_waiters():
    diagnosis = diagnose(case_of("stale-baton"))
    assert (diagnosis.cause, diagnosis.status) == ("stale-lock-file", Status.SUPPORTED)
    assert diagnosis.remedies[0].quarantine == ("/home/user/job/extensions/py311_cpu/fused/lock",)
    assert "ended" in diagnosis.remedies[0].why


def test_a_lock_file_that_a_living_builder_has_open_is_not_stale():
    diagnosis = diagnose(case_of("live-baton"))
    assert (diagnosis.cause, diagnosis.status) == ("lock-held-elsewhere", Status.SUPPORTED)
    assert not any(remedy.quarantine for remedy in diagnosis.remedies)


def test_a_lock_file_whose_openers_cannot_be_known_is_not_moved():
    case = case_of("stale-baton")
    files = tuple(msgspec.structs.replace(file, openers=None) for file in case.caches("torch-extensions")[0].lock_files)
    assert not any(remedy.quarantine for remedy in diagnose(replace_probe(case, "torch-extensions", lock_files=files)).remedies)


def test_a_stopped_root_is_established_and_continued():
    diagnosis = diagnose(case_of("stopped"))
    assert (diagnosis.cause, diagnosis.status) == ("process-stopped", Status.ESTABLISHED)
    assert [(remedy.id, remedy.kind) for remedy in diagnosis.remedies] == [
        ("continue-process", "live"),
        ("relaunch", "environment"),
    ]


def test_a_stopped_helper_beside_a_running_root_is_supported_only():
    case = case_of("stopped")
    helper = case.evidence.processes[0]
    root = case_of("spin").evidence.processes[0]
    diagnosis = diagnose(replace(case, processes=(root, helper), root=root.ref))
    assert (diagnosis.cause, diagnosis.status) == ("process-stopped", Status.SUPPORTED)


def test_a_question_on_standard_input_is_established():
    diagnosis = diagnose(case_of("stdin"))
    assert (diagnosis.cause, diagnosis.status) == ("stdin-wait", Status.ESTABLISHED)
    assert diagnosis.remedies[-1].id == "stdin-null"


def test_a_worker_that_reads_its_parents_pipe_is_no_question_to_the_user():
    case = case_of("stdin")
    worker = case.evidence.processes[0]
    root = case_of("sleep").evidence.processes[0]
    assert diagnose(replace(case, processes=(root, worker), root=root.ref)).cause == "unknown"


def test_a_loop_is_named_busy_only_when_the_judge_holds_the_job_to_be_hung():
    case = case_of("spin")
    assert diagnose(case).cause == "unknown"
    diagnosis = diagnose(msgspec.structs.replace(case, verdict=HUNG))
    assert (diagnosis.cause, diagnosis.status) == ("busy-loop", Status.SUPPORTED)


def test_a_loop_that_visits_many_places_is_not_busy():
    case = case_of("spin")
    looks = tuple(Look(look.ref, f"{number:08x}", look.top, look.is_active) for number, look in enumerate(case.looks))
    assert diagnose(msgspec.structs.replace(case, verdict=HUNG, looks=looks)).cause == "unknown"


def test_a_sleep_is_unknown_and_says_where_it_is():
    diagnosis = diagnose(case_of("sleep", HUNG))
    assert (diagnosis.cause, diagnosis.status, diagnosis.confidence) == ("unknown", Status.UNKNOWN, 0.0)
    assert "train.py" in diagnosis.summary
