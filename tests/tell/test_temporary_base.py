"""Records in a place where everybody may write: only in a directory that is our own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from unsloth_watch.errors import RunDirectoryError
from unsloth_watch.tell.directory import claim_temporary_base, find_base, find_kept_base, find_temporary_base

pytestmark = pytest.mark.quick


def test_it_is_made_for_us_alone(tmp_path: Path) -> None:
    base = find_temporary_base({"TMPDIR": str(tmp_path)})
    claim_temporary_base(base)
    claim_temporary_base(base)
    top = Path(base).parent
    assert top.parent == tmp_path
    assert stat.S_IMODE(top.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "open to all", "another user's"])
def test_one_that_somebody_else_could_have_made_is_refused(tmp_path: Path, kind: str) -> None:
    base = find_temporary_base({"TMPDIR": str(tmp_path)})
    top = Path(base).parent
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        top.symlink_to(tmp_path / "elsewhere")
    else:
        top.mkdir()
        top.chmod(0o777 if kind == "open to all" else 0o700)
    if kind == "another user's":
        if os.getuid() != 0:
            pytest.skip("giving a directory to another user needs root; run the tests as root")
        os.chown(top, 65534, 65534)
    with pytest.raises(RunDirectoryError, match="not a directory of our own"):
        claim_temporary_base(base)


def test_runs_are_looked_for_there_only_where_the_usual_place_is_not(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    base = find_base(environment)
    assert find_kept_base(environment) == base
    temporary = find_temporary_base(environment)
    claim_temporary_base(temporary)
    Path(temporary).mkdir()
    assert find_kept_base(environment) == temporary
    Path(base).mkdir(parents=True)
    assert find_kept_base(environment) == base
