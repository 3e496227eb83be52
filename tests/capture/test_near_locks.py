"""Which files near a polling job may be the lock that it waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsloth_watch.capture.nearlocks import find_near_locks
from unsloth_watch.model.evidence import Frame, ProcessEvidence, SourceLoop, ThreadEvidence
from unsloth_watch.model.process import ProcessRef

pytestmark = pytest.mark.quick


def test_what_a_package_manager_locks_versions_with_is_no_lock(tmp_path: Path) -> None:
    for name in ("uv.lock", "poetry.lock", "Cargo.lock"):
        (tmp_path / name).touch()
    (tmp_path / "versions.lock").write_text("x" * 2000)
    (tmp_path / "save.lock").write_text("12345")
    loop = SourceLoop(0, "while os.path.exists(lock)", "time.sleep(1)", ())
    thread = ThreadEvidence(1, "MainThread", is_main=True, frames=(Frame("save", "/t.py", 3),), loops=(loop,))
    process = ProcessEvidence(ref=ProcessRef(1, 1), ppid=0, cwd=str(tmp_path), threads=(thread,))
    assert [Path(file.path).name for file in find_near_locks([process])] == ["save.lock"]
