r"""The command's output, cut into lines and read for what can advance.

A progress bar ends its lines with ``\r``, and prints that *before* the next one: the newest bar is always an unfinished line. It
is read when it has stood still for a tick, so that a step of 14 s does not show one step late.
"""

from __future__ import annotations

import re

from unsloth_watch.model.sample import OutputSample, Reading
from unsloth_watch.sense.line import MOST_CHARS, read_line, strip_escapes

MOST_LINES = 32
"""Lines of one feed that are read whatever they are: a line costs 10 µs (a bar) to 100 µs (a dict of metrics)."""
MOST_READINGS = 64
"""Readings of one sample."""
MOST_BYTES = 1 << 16
"""Bytes of one feed that are cut into lines; of a flood the newest are."""
MOST_KEPT = 2048
"""Bytes of an unfinished line that are kept: enough for 400 characters with escapes between them."""
MOST_TAIL = 64
"""Bytes at the end of an unfinished line that are read once it is longer than any line is read: ``print(i, end=" ")`` goes on for
hours, and so fast that it never stands still."""
_ENDS = re.compile(rb"\r\n|\n|\r|\x08+|\x1b\[[\d;]{0,12}[ABD-HfJ]|\x1b\[u|\x1b8")
# A bar goes back to its beginning by backspaces or moves of the cursor, too: Node's progress bars never print ``\r``.
_GAPS = re.compile(rb"[ \t,;]+")
_PROMPT = re.compile(
    r"(?:\?|[:>$#]|\[[yY]/[nN]\]|\([yY]/[nN]\)|\(yes/no[^)]{0,30}\)|pass(?:word|phrase)[^:]{0,60}:?"
    r"|press (?:any key|enter|return)\b[^:]{0,40}|(?:your|a) choice:?)\s{0,4}$",
    re.IGNORECASE,
)
_DIGITS = bytes(range(48, 58))


class OutputReader:
    """Reads what the relay hands over, once a tick."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._tail = b""
        self._is_cut = False
        self._was_read = b""
        self._ended_by_cr = False
        self._lines = 0

    def feed(self, fresh: bytes, total_bytes: int, skipped: int = 0, is_blocked: bool = False) -> OutputSample:
        r"""Return the sample of this tick.

        Args:
            fresh: Bytes printed since the last call, both streams as they came.
            total_bytes: Bytes printed so far.
            skipped: Bytes that were lost between the last call's and ``fresh``; the line they tear is dropped, and lines in them
                are not counted.
            is_blocked: Whether the relay cannot keep up.

        Returns:
            A sample whose readings are those of the newest lines; beyond ``MOST_LINES`` one line of each kind comes first.
        """
        if skipped:
            # What is left of the line that was torn cannot be told from a line of its own.
            self._drop()
            self._is_cut = True
        self._lines += self._count_ends(fresh)
        if len(fresh) > MOST_BYTES:
            fresh = fresh[-MOST_BYTES:]
            self._drop()
            self._is_cut = True
        lines = self._split(fresh)
        readings: list[Reading] = []
        for line in _newest_of_each_kind(lines):
            readings.extend(read_line(_decode(line)))
        readings.extend(read_line(self._read_tail()))
        prompt = None
        if not fresh and self._partial and not self._is_cut:
            text = _decode(bytes(self._partial))
            if bytes(self._partial) != self._was_read:
                self._was_read = bytes(self._partial)
                readings.extend(read_line(text))
            prompt = text.strip() if len(self._partial) < MOST_KEPT and _PROMPT.search(text) else None
        return OutputSample(total_bytes, self._lines, tuple(readings[-MOST_READINGS:]), is_blocked, prompt)

    def _count_ends(self, fresh: bytes) -> int:
        r"""Return the line ends in ``fresh``; ``\r\n`` is one, also where two calls share it."""
        if not fresh:
            return 0
        count = fresh.count(b"\n") + fresh.count(b"\r") - fresh.count(b"\r\n")
        if self._ended_by_cr and fresh[0] == 10:
            count -= 1
        self._ended_by_cr = fresh[-1] == 13
        return count

    def _split(self, fresh: bytes) -> list[bytes]:
        """Cut off whole lines, blank ones left out; keep the rest. A line that was read while it stood is left out."""
        lines: list[bytes] = []
        start = 0
        for end in _ENDS.finditer(fresh):
            self._keep(fresh[start : end.start()])
            start = end.end()
            line = bytes(self._partial)
            self._drop()
            was_read, self._was_read = self._was_read, b""
            if self._is_cut:
                self._is_cut = False
                continue
            if line.strip() and line != was_read:
                lines.append(line)
        self._keep(fresh[start:])
        return lines

    def _keep(self, part: bytes) -> None:
        room = MOST_KEPT - len(self._partial)
        if room > 0:
            self._partial += part[:room]
        self._tail = (self._tail + part[-MOST_TAIL:])[-MOST_TAIL:]

    def _drop(self) -> None:
        self._partial.clear()
        self._tail = b""

    def _read_tail(self) -> str:
        """Return the last whole words of an unfinished line that is longer than what is read of a line; else nothing."""
        if len(self._partial) <= MOST_CHARS:
            return ""
        pieces = _GAPS.split(self._tail)  # the first may have been cut off, the last may go on
        return _decode(b" ".join(pieces[1:-1]))


def _newest_of_each_kind(lines: list[bytes]) -> list[bytes]:
    """Return at most ``MOST_LINES`` lines in their order; of a flood the newest of each kind, so that a rare counter survives."""
    if len(lines) <= MOST_LINES:
        return lines
    newest: dict[bytes, int] = {}
    for index in range(len(lines) - 1, -1, -1):
        kind = lines[index][:48].translate(None, _DIGITS)
        if kind not in newest:
            newest[kind] = index
            if len(newest) >= MOST_LINES:
                break
    return [lines[index] for index in sorted(newest.values())]


def _decode(line: bytes) -> str:
    return strip_escapes(line.decode("utf-8", "replace"))[:MOST_CHARS]
