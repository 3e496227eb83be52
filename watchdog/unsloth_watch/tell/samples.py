"""``samples.jsonl``: what the judge saw, in full for ten minutes and ten times coarser before, never beyond a set size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.model.evidence import Evidence
from unsloth_watch.model.sample import Look, OutputSample, Reading, Sample
from unsloth_watch.tell.linefile import LineFile
from unsloth_watch.tell.lines import encode_line, read_lines
from unsloth_watch.tell.redact import Redactor

RECENT_S = 600.0
"""Seconds that are kept in full: three times the default stall timeout, so that a verdict can be replayed from its cause on."""
KEEP_EVERY = 10
"""Older samples are merged by this many."""
MAX_BYTES = 32 * 1024 * 1024
"""Size that the file never exceeds for longer than one sample; 20 processes at 1 Hz reach 12 MB after two days."""
_READINGS_LIMIT = 200  # of a merged sample, newest kept
_HARMLESS_LIMIT = 20_000  # texts without a secret that are remembered; 20 processes with 10 threads each have some hundreds
_BETWEEN = "\n\0\n"  # no pattern reaches over it from one text to the next


class _Place(msgspec.Struct):
    """Where one sample lies in the file, how many it stands for, and of which attempt."""

    at: float
    size: int
    merged: int = 1
    attempt: int = 1


class _Told(msgspec.Struct):
    """What a merged sample keeps of an earlier one. The rest, nearly all of a large job's, is totals, and is not even decoded."""

    output: OutputSample | None = None
    looks: tuple[Look, ...] = ()
    surveys: tuple[Evidence, ...] = ()
    gap_s: float = 0.0
    is_renewed: bool = False
    degraded: tuple[str, ...] = ()


class SampleLog:
    """Appends samples, thins the old ones, and never raises for what the disk does.

    Args:
        path: ``samples.jsonl``.
        redactor: The run's redactor: paths and prompts may hold secrets.
        max_bytes: Bound of the file.

    Attributes:
        lost: Samples that could not be written.
        trouble: Reason of the newest failure, None while all is well.
    """

    def __init__(self, path: str, redactor: Redactor, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.lost = 0
        self.trouble: str | None = None
        self._redactor = redactor
        self._max_bytes = max_bytes
        self._file = LineFile(path, queue_limit=1)
        self._places: list[_Place] = []
        self._size = 0
        self._next_thinning: float | None = None
        self._paths: dict[str, str] = {}
        self._harmless: set[str] = set()
        self._known = 0

    def append(self, sample: Sample) -> bool:
        """Write one sample; False where the disk did not let us: the sample is lost, counted, and the next one is tried anew."""
        line = encode_line(self._clean(sample))
        if self._next_thinning is None:
            self._next_thinning = sample.at + 2 * RECENT_S
        size = len(line) + 1
        if sample.at >= self._next_thinning or self._size + size > self._max_bytes:
            self._thin(sample.at, self._max_bytes - size)
            self._next_thinning = sample.at + RECENT_S
        if self._size + size > self._max_bytes or not self._file.append(line):
            self._file.forget()
            self.lost += 1
            self.trouble = self._file.trouble or self.trouble or "the file has its full size and cannot be thinned"
            return False
        self.trouble = None
        self._places.append(_Place(sample.at, size, attempt=sample.attempt))
        self._size += size
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _clean(self, sample: Sample) -> Sample:
        """Return what may be written: secrets replaced, and readings that JSON cannot hold (``loss nan``) without their number."""
        changes: dict[str, object] = {}
        output = sample.output
        if output is not None:
            readings = tuple(
                reading if math.isfinite(reading.value) and math.isfinite(reading.total or 0.0) else Reading(reading.shape)
                for reading in output.readings
            )
            prompt = self._redactor.text(output.prompt) if output.prompt else output.prompt
            if readings != output.readings or prompt != output.prompt:
                changes["output"] = msgspec.structs.replace(output, readings=readings, prompt=prompt)
        if sample.files and any(self._clean_path(file.path) != file.path for file in sample.files):
            changes["files"] = tuple(msgspec.structs.replace(file, path=self._clean_path(file.path)) for file in sample.files)
        if sample.surveys:
            changes["surveys"] = tuple(self._clean_survey(survey) for survey in sample.surveys)
        return msgspec.structs.replace(sample, **changes) if changes else sample

    def _clean_survey(self, survey: Evidence) -> Evidence:
        """Return a survey without secrets; one secret becomes the same word in all of them, so that they still prove the same."""
        # One survey is much like the next: a text is searched once. 128 kB of them (20 processes, 10 threads each) took 111 ms.
        if self._known != self._redactor.known or len(self._harmless) > _HARMLESS_LIMIT:
            self._harmless.clear()
            self._known = self._redactor.known
        fresh = {phrase for phrase in _list_phrases(msgspec.to_builtins(survey)) if phrase not in self._harmless}
        text = _BETWEEN.join(fresh)
        if self._redactor.text(text) != text:
            return msgspec.convert(self._redactor.value(survey), Evidence)
        self._harmless |= fresh
        return survey

    def _clean_path(self, path: str) -> str:
        if path not in self._paths:
            if len(self._paths) > 4096:
                self._paths.clear()
            self._paths[path] = self._redactor.text(path)
        return self._paths[path]

    def _thin(self, now: float, budget: int) -> None:
        groups = _choose(self._places, now - RECENT_S, budget)
        temporary = f"{self.path}.thin"
        try:
            places = self._rewrite(temporary, groups)
            self._file.close()
            os.rename(temporary, self.path)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            # A full disk, or somebody else changed the file: go on with the file as it is, as long as it is below its bound.
            self.trouble = str(error)
            try:
                os.unlink(temporary)
            except OSError:
                pass  # it was never made
            return
        self._places = places
        self._size = sum(place.size for place in places)

    def _rewrite(self, temporary: str, groups: Sequence[Sequence[tuple[int, _Place]]]) -> list[_Place]:
        """Copy the chosen samples, each group merged into one, and return where they lie now."""
        places: list[_Place] = []
        decoder, told = msgspec.json.Decoder(Sample), msgspec.json.Decoder(_Told)  # 4 ms, and most runs end before that
        with open(self.path, "rb") as source, open(temporary, "wb", opener=_open_private) as target:
            for group in groups:
                lines = [_read_at(source.fileno(), offset, place.size) for offset, place in group]
                line = lines[-1]
                if len(lines) > 1:
                    line = encode_line(_merge([told.decode(part) for part in lines[:-1]], decoder.decode(line))) + b"\n"
                target.write(line)
                last = group[-1][1]
                places.append(_Place(last.at, len(line), sum(place.merged for _, place in group), last.attempt))
        return places


def _list_phrases(value: object) -> Iterator[str]:
    """Yield all texts of plain data, each with what a secret is known by: the name beside it, the argument before it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield f"{name}={item}" if isinstance(item, str) else str(name)
            if not isinstance(item, str):
                yield from _list_phrases(item)
    elif isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            yield " ".join(value)
        else:
            for item in value:
                yield from _list_phrases(item)


def read_samples(path: str) -> Iterator[Sample]:
    """Yield the samples of a file, oldest first; a torn or damaged line is left out.

    Raises:
        OSError: The file cannot be opened or read.
    """
    decoder = msgspec.json.Decoder(Sample)
    for line in read_lines(path):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # torn by a full disk or a killed writer


def _choose(places: Sequence[_Place], recent: float, budget: int) -> list[list[tuple[int, _Place]]]:
    """Group the samples: older ones by ``KEEP_EVERY``, once; then drop the oldest until ``budget`` bytes hold the rest.

    Where the recent ones alone are too large (a thousand processes), they are thinned like the older ones.
    """
    groups = _group(places, recent)
    if sum(group[-1][1].size for group in groups) > budget:
        groups = _group(places, math.inf)
    total = sum(group[-1][1].size for group in groups)
    # Half the budget, so that the next rewrite is not due at the next sample.
    first = 0
    while first < len(groups) and total > budget // 2:
        total -= groups[first][-1][1].size
        first += 1
    return groups[first:]


def _group(places: Sequence[_Place], recent: float) -> list[list[tuple[int, _Place]]]:
    groups: list[list[tuple[int, _Place]]] = []
    offset = 0
    is_open = False
    for place in places:
        item = (offset, place)
        offset += place.size
        if place.at >= recent or place.merged > 1:
            groups.append([item])
            is_open = False
        elif is_open and len(groups[-1]) < KEEP_EVERY and groups[-1][-1][1].attempt == place.attempt:
            groups[-1].append(item)
        else:
            groups.append([item])
            is_open = True
    return groups


def _merge(earlier: Sequence[_Told], last: Sample) -> Sample:
    """Return the last sample with what the earlier ones alone knew: readings, looks, surveys, gaps. Counters are totals."""
    samples: list[_Told | Sample] = [*earlier, last]
    output = last.output
    if output is not None:
        readings = [reading for sample in samples if sample.output for reading in sample.output.readings]
        output = OutputSample(
            output.total_bytes, output.lines, tuple(readings[-_READINGS_LIMIT:]), output.is_blocked, output.prompt
        )
    return msgspec.structs.replace(
        last,
        output=output,
        looks=tuple(look for sample in samples for look in sample.looks),
        surveys=tuple(survey for sample in samples for survey in sample.surveys),
        gap_s=sum(sample.gap_s for sample in samples),
        is_renewed=any(sample.is_renewed for sample in samples),
        degraded=tuple(sorted({name for sample in samples for name in sample.degraded})),
    )


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size or not data.endswith(b"\n"):
        raise OSError(5, "the file was changed by somebody else")
    return data


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
