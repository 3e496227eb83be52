"""A directory that the user named with ``--run-dir``: never one that holds anybody's files of the same names."""

from __future__ import annotations

from pathlib import Path

import pytest

from unsloth_watch.errors import RunDirectoryError
from unsloth_watch.tell.directory import use_run_directory

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl", "output.log", "events.jsonl", "incidents"])
def test_somebodys_own_file_of_a_name_of_ours_is_not_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunDirectoryError, match="choose another --run-dir"):
        use_run_directory(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_directory_with_other_files_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert use_run_directory(str(tmp_path)).path == str(tmp_path)
