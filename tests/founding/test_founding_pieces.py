"""The founding hang with the real library, through the pieces: capture, diagnosis, remedy, relaunch."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from environments import interpreter_of
from founding.faults import FAULTS, command_of, lay_out
from unsloth_watch.act.mend import apply
from unsloth_watch.capture.caches import probe_caches
from unsloth_watch.capture.capture import capture, look
from unsloth_watch.capture.process import read_start
from unsloth_watch.capture.versions import read_versions
from unsloth_watch.diagnose import Case, diagnose
from unsloth_watch.model.diagnosis import Diagnosis, Status
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look
from waiting import until

pytestmark = pytest.mark.unsloth


class Attempt:
    """One unsupervised attempt of the example."""

    def __init__(self, job: Path, command: list[str], environment: dict[str, str]) -> None:
        self.job = job
        self.environment = environment
        self.process = subprocess.Popen(
            command, cwd=job, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_for(self, words: str) -> None:
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} was never said: {''.join(seen)[-2000:]}")

    def diagnose(self) -> Diagnosis:
        """Look until a few looks fall into the library, then capture."""
        start = read_start(self.process.pid)
        assert start is not None
        ref = ProcessRef(self.process.pid, start)
        looks: list[Look] = []

        def has_looks() -> bool:
            found = look(ref)
            if found is not None and any("create_new_function" in text or "write_file" in text for text in found.top):
                looks.append(found)
            return len(looks) >= 3

        until(has_looks, 30, every=0.1)
        evidence = capture([ref], ref, at=time.monotonic(), clock=time.monotonic, probes=(probe_caches, read_versions))
        return diagnose(Case(evidence, None, tuple(looks)))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator:
    attempts = []

    def start(name: str, python: Path, **environment: str) -> Attempt:
        fault = FAULTS[name]
        fault.prepare(lay_out(tmp_path / "job"))
        command, clean = command_of(fault, python, tmp_path / "job")
        attempts.append(Attempt(tmp_path / "job", command, {**clean, **environment}))
        return attempts[-1]

    yield start
    for attempt in attempts:
        attempt.close()


@pytest.mark.parametrize("name", ["cwd-not-importable", "made-beforehand", "shadowed"])
def test_the_founding_hang_is_established_and_its_first_remedy_mends_it(begin, tmp_path: Path, name: str):
    attempt = begin(name, interpreter_of("founding"))
    attempt.wait_for("preparing the compiled loss")
    diagnosis = attempt.diagnose()
    assert (diagnosis.cause, diagnosis.status) == ("compile-cache-unusable", Status.ESTABLISHED)
    assert "2025.3.1" in diagnosis.summary
    assert attempt.process.poll() is None
    attempt.close()

    first = diagnosis.remedies[0]
    applied = apply(first, attempt.environment, str(tmp_path / "private"), str(tmp_path / "q"), lambda: False, cwd=str(attempt.job))
    assert applied.refused == ()
    again = Attempt(attempt.job, list(attempt.process.args), applied.environment)
    try:
        again.wait_for("training done")
        assert again.process.wait() == 0
    finally:
        again.close()


@pytest.mark.slow
@pytest.mark.parametrize("remedy_id", ["default-lock-timeout", "redirect-compile-cache"])
def test_the_lock_of_todays_library_is_named_with_its_holder_and_mended(begin, holder, tmp_path: Path, remedy_id: str):
    attempt = begin("cwd-not-importable", interpreter_of("modern"), UNSLOTH_LOCK_TIMEOUT="-1")
    attempt.wait_for("preparing the compiled loss")
    diagnosis = attempt.diagnose()
    assert (diagnosis.cause, diagnosis.status) == ("lock-held-elsewhere", Status.ESTABLISHED)
    assert diagnosis.culprit is not None
    assert diagnosis.culprit.pid == holder.pid
    attempt.close()
    (remedy,) = (remedy for remedy in diagnosis.remedies if remedy.id == remedy_id)
    applied = apply(remedy, attempt.environment, str(tmp_path / "private"), str(tmp_path / "q"), lambda: False)
    again = Attempt(attempt.job, list(attempt.process.args), applied.environment)
    try:
        again.wait_for("training done")
        assert again.process.wait() == 0
    finally:
        again.close()
