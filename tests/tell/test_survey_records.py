"""Surveys in ``samples.jsonl``: without secrets, and still a proof."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.sample import Sample
from unsloth_watch.tell.redact import Redactor
from unsloth_watch.tell.samples import RECENT_S, SampleLog, read_samples

pytestmark = pytest.mark.quick

SURVEYS = Path(__file__).parent.parent / "data" / "surveys"
SECRET = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"


def read(name: str, secret: str = "") -> list[Evidence]:
    """Recorded surveys, with a secret in the paths of their frames where one is given."""
    raw = (SURVEYS / f"{name}.json").read_text()
    return msgspec.json.decode(raw.replace("/project/", f"/project/{secret}/") if secret else raw, type=list[Evidence])


def test_a_secret_in_a_path_is_replaced_and_the_surveys_prove_the_same(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    log = SampleLog(str(path), Redactor({"HF_TOKEN": SECRET}))
    surveys = read("hang_abba", SECRET)
    for survey in surveys:
        assert log.append(Sample(at=survey.at, wall=0.0, processes=(), surveys=(survey,)))
    log.close()
    assert SECRET not in path.read_text()
    found = [survey for sample in read_samples(str(path)) for survey in sample.surveys]
    assert len(found) == len(surveys)
    assert any("‹" in frame.file for process in found[0].processes for thread in process.threads for frame in thread.frames)
    assert isinstance(prove(found, is_gpu_idle=True), Proof)


def test_surveys_without_secrets_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    log = SampleLog(str(path), Redactor({}))
    surveys = tuple(read("hang_socket_inside"))
    log.append(Sample(at=1.0, wall=0.0, processes=(), surveys=surveys))
    log.close()
    assert next(iter(read_samples(str(path)))).surveys == surveys


def test_merging_old_samples_keeps_all_surveys(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    log = SampleLog(str(path), Redactor({}))
    (survey, *_) = read("hang_abba")
    for at in range(20):
        log.append(Sample(at=float(at), wall=0.0, processes=(), surveys=(survey,) if at in (3, 5) else ()))
    log.append(Sample(at=3 * RECENT_S, wall=0.0, processes=()))
    log.close()
    samples = list(read_samples(str(path)))
    assert len(samples) < 20
    assert sum(len(sample.surveys) for sample in samples) == 2


@pytest.mark.parametrize("is_known_before", [True, False], ids=["known before", "learned between two surveys"])
def test_a_secret_that_only_its_place_or_another_text_betrays_is_replaced_in_every_survey(
    tmp_path: Path, *, is_known_before: bool
) -> None:
    path = tmp_path / "samples.jsonl"
    redactor = Redactor({})
    log = SampleLog(str(path), redactor)
    (survey, *_) = read("hang_abba", "quietword42")
    if not is_known_before:
        log.append(Sample(at=0.0, wall=0.0, processes=(), surveys=(survey,)))
    assert "quietword42" not in redactor.text("--password quietword42")
    log.append(Sample(at=1.0, wall=0.0, processes=(), surveys=(survey,)))
    log.close()
    *_, newest = path.read_text().splitlines()
    assert "quietword42" not in newest
    assert "abba" in newest
