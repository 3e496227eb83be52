"""The benchmark of the diagnosis: it runs a program of the zoo, and it judges kept cases again without running anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "scripts" / "bench" / "diagnosis.py"


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *words], capture_output=True, text=True, check=False)


def test_a_program_is_run_explained_and_kept_and_explained_again_from_what_was_kept(tmp_path: Path):
    cases, numbers = tmp_path / "cases", tmp_path / "numbers.json"
    first = bench("--only", "hang_input_pipe", "--save", str(cases), "--json", str(numbers))
    assert first.returncode == 0, first.stderr
    answer = json.loads(numbers.read_text())["answers"][0]
    assert (answer["found"], answer["is_cause_right"], answer["is_culprit_right"]) == ("stdin-wait", True, True)
    assert answer["capture_s"] > 0
    assert answer["processes"] == 1
    again = bench("--cases", str(cases))
    assert again.returncode == 0, again.stderr
    assert "cause right          1 of 1" in again.stdout
    assert "| 0.90–1.00" in again.stdout


def test_a_name_that_no_program_has_is_refused():
    result = bench("--only", "hang_no_such_program")
    assert result.returncode == 2
    assert "there is no such program" in result.stderr
