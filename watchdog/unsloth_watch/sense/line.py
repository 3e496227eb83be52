r"""One line of output reduced to its shape and to the numbers in it that can advance.

All of a line's numbers go into one pass of one pattern, in the order in which they are easily mistaken for each other: what looks
like a date, a clock, a rate, an address or an id is taken first, so that only counters are left as plain numbers. What a number is
called (the word before it, the unit behind it) then decides whether it may count at all. Whether it *advances* the judge decides.
"""

from __future__ import annotations

import math
import re
import zlib

from unsloth_watch.model.sample import INDEX, Reading
from unsloth_watch.sense.words import COUNTERS, FUTILE, KEPT_RATES, MEMORY, MOVED, NEVER, STATES

MOST_CHARS = 400
"""A line's part that is looked at. The pattern's worst case is quadratic, and 400² is a millisecond."""
MOST_READINGS = 12
"""Readings of one line; a dict of 40 metrics says nothing more by the rest."""
MOST_INDEXES = 2
"""Bare whole numbers of a line that may be its index: spaCy's tables begin with the epoch, and the step is the second."""
INDEX_DIGITS = 8
"""Digits of an index at most: what is longer is a time, an id or an address."""

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])|[\x00-\x08\x0b-\x1f\x7f]")
_BAR = re.compile(
    r"(?<=%)\s?\|[^|]{0,200}\|"  # tqdm, whatever its alphabet
    r"|\[[=>#.\-]{3,200}[=>#.\- ]{0,200}\]|\[ {5,200}\]"  # keras, wget, apt
    r"|[\u2500-\u25ff\u2800-\u28ff]+"  # blocks, lines, Braille spinners
)
_SPINNER = re.compile(r"^\s*[|/\\-](?=\s)|(?<=\s)[|/\\-]\s*$")

_N = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,4})?"
_SIZE = r"(?:[kKMGTP]i?)?B(?:ytes?)?\b|[kKMGTP]i?b?\b|bytes\b"
_TOKEN = re.compile(
    rf"""
    (?=[-+\d?]|\b[a-fA-FIWnNi])(?:  # most places begin no token: one look instead of twenty
    (?P<skip>
        [0-9a-fA-F]{{8}}-(?:[0-9a-fA-F]{{4}}-){{3}}[0-9a-fA-F]{{12}}                        # uuid
      | \b0[xX][0-9a-fA-F]+\b
      | \b(?=[0-9a-f]{{0,63}}[a-f])(?=[a-f]{{0,63}}\d)(?!\d+e\d+\b)[0-9a-f]{{7,64}}\b       # commit, digest
      | \b(?:(?:19|20)\d\d|\d\d)(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[T_\ -](?:[01]\d|2[0-3])[0-5]\d[0-5]\d\b  # 241124 204917
      | \b(?:[01]\d|2[0-3])h[0-5]\d(?:m?[0-5]\d)?s?\b                                       # 20h49
      | \b\d{{4}}[-/]\d\d[-/]\d\d(?:[T\ _-]?\d\d[:-]\d\d(?:[:-]\d\d)?(?:[.,]\d+)?(?:Z\b|[+-]\d\d:?\d\d\b)?)?
      | \b\d\d?(?P<cut>[-/])\d\d?(?P=cut)(?:\d{{4}}|\d\d)\b                                  # 24/11/2026
      | \b\d\d[-/]\d\d(?=\ \d\d:\d\d)                                                       # vLLM: 11-24 07:41:07
      | \b[IWEFD]\d{{4}}(?=\ \d\d:\d\d:\d\d)(?:\ \d\d:\d\d:\d\d(?:\.\d+)?\ +\d+)?           # glog: W1124 07:41:07.1 PID
      | \b(?:\d+\ days?,\ )?\d{{1,4}}:\d\d(?::\d\d)?(?:[.,]\d+)?\b(?!\])                       # clocks, elapsed<remaining
      | \b\d+(?:\.\d+){{2,}}(?:[-+.\w]*\w)?(?::\d+)?                                        # versions, addresses
      | \?(?=\s?[\w]*/s\b|,\ \?) | (?<=<)\?
      | (?<![\w.])[+-]?{_N}\s?(?:[\w%]{{1,12}}|\w+\ \w+)?/(?:s|sec|secs|second|it|iter|step|example|sample|min|h|hr)\b  # rates
      | (?<![\w.])(?:{_N}\ ?(?:d|h|m|min)\ ?){{1,3}}(?:{_N}\ ?s)?(?![\w/])(?<![kKMG])        # 1h30m, 2m 5s
      | (?<![\w.]){_N}\ ?(?:ms|us|µs|ns|s|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?)\b(?!/)
      | (?<![\w.]){_N}\ ?(?:[MG]Hz|k?Wh?|mW|V|°?C|°|K)\b(?![/\w])
    )
    | (?<![\w./-])(?P<n>{_N})(?P<n_unit>\ ?(?:{_SIZE}))?
        (?:\ ?/\ ?|\ (?:out\ )?of\ (?:the\ )?)(?P<total>{_N})(?P<total_unit>\ ?(?:{_SIZE}))?(?![\w/]|\.\d)
    | (?<![\w./-])(?P<open>{_N})/\?
    | (?<![\w.])(?P<percent>[+-]?{_N})\ ?%
    | (?<![\w./-])(?P<size>{_N})\ ?(?P<size_unit>{_SIZE})(?!/)
    | (?<![\w.)\]/-])(?P<number>[+-]?{_N})(?![\w/]|\.\d)
    | (?<![\w.])(?P<nan>[+-]?(?:nan|inf|NaN|Inf))\b
    | (?P<digits>\d[\d.,]*)
    )
    """,
    re.VERBOSE,
)
_TQDM = re.compile(
    r"(?P<head>.{0,300}?)\s?(?:\d+%\s?\|[^|]{0,200}\|\s*(?P<count>[^\[|]{1,60}?)|\|[^|]{0,200}\|\s*(?P<open_count>\S{1,20}/\?))"
    r"\s*\[(?P<tail>[^\]|]{0,200})"
)
_OPEN_BAR = re.compile(rf"(?P<head>(?:.{{0,200}}?[:\s])??)(?P<n>{_N})\s?(?P<unit>(?:{_SIZE})|[A-Za-z]\w{{0,20}})\s\[\d+:\d\d[,:]")
_KEY = re.compile(r"(?P<name>[A-Za-z_][\w./-]{0,39})(?P<quote>[\"']?)(?P<sep>\s?[=:]\s?[\[(]?[\"']?|[\s\[(#]{1,2})$")
_UNIT = re.compile(r"\s?(?P<unit>[A-Za-z]{2,14}s|it|done)\b(?!\s?[=:]|\s[\d+-])")
_HAS_NUMBER = re.compile(r"[\d?]|\b(?i:nan|inf)\b")
_WORDS = re.compile(r"[a-z]+")
_CAPITALS = re.compile(r"[A-Z][a-z]+")
_CLAUSE = re.compile(r"[,|;\]]|\s-\s")
_NEXT = re.compile(r"[\s)\]]{0,2}([A-Za-z]+)")
_ERROR_RATE = re.compile(r"\berrors?\W{1,3}(?=\d*\.\d)", re.IGNORECASE)  # ``train-error:0.25`` is a result, ``error: refused`` none
_BEFORE = re.compile(r"([A-Za-z]+)[^A-Za-z\d]{0,3}$")
_SOMEBODY = re.compile(r"\b(?:(?:[A-Z][a-z]+){2,}|[Ww]orkers?|Task)-$")  # ``ForkPoolWorker-5``, ``Task-12``, ``worker-17``

_IDLE = re.compile(
    r"\b(?:retry|retries|retrying|attempts?|waiting|waited|waits|heartbeat|alive|keep-?alive|polling|sleeping|idle|timed out"
    r"|time-?out|still (?:running|working|here|there))\b",
    re.IGNORECASE,
)
_WAITING = re.compile(r"\b(?:waiting|heartbeat|alive|polling|sleeping|idle)\b", re.IGNORECASE)
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}


def strip_escapes(text: str) -> str:
    """Return the text without terminal escapes and control characters, as one would read it."""
    return _ESCAPE.sub("", text)


def read_line(text: str) -> tuple[Reading, ...]:
    """Return the readings of one line, escapes already stripped: at least one, unless the line is blank.

    Args:
        text: The line; only its first ``MOST_CHARS`` characters are looked at.
    """
    text = text[:MOST_CHARS].rstrip()
    if not text.strip():
        return ()
    bar = _TQDM.match(text)
    if bar is not None:
        return _read_bar(bar)
    open_bar = _OPEN_BAR.match(text)
    if open_bar is not None:
        return _read_open_bar(open_bar)
    # Blanks are folded first: tables are set with blanks that go as their numbers grow.
    plain = " ".join(_BAR.sub(" ", _SPINNER.sub(" ", text)).split())
    skeleton, found, indexes = _scan(plain)
    shape = _hash(skeleton)
    if _IDLE.search(plain):
        return (Reading(shape),)
    has_counter = any(name in COUNTERS or name == "n/total" for name, _, _ in found)
    if indexes and not has_counter and FUTILE.isdisjoint(_words(_ERROR_RATE.sub(" ", plain))):
        found = [*found, *((f"{INDEX}{place}", value, None) for place, value in enumerate(indexes))]
    return tuple(Reading(shape, name, value, total) for name, value, total in found) or (Reading(shape),)


def _read_bar(bar: re.Match[str]) -> tuple[Reading, ...]:
    """Read a tqdm bar with a total: its shape is its description, whatever the postfix says and the bar shows."""
    head = bar["head"]
    shape = _hash(_scan(head)[0] + "|n/total")
    if _WAITING.search(head):
        return (Reading(shape),)
    found = [entry for entry in _scan(bar["count"] or bar["open_count"])[1] if entry[0] == "n/total"]
    found += _scan(_postfix(bar["tail"]))[1]
    return tuple(Reading(shape, name, value, total) for name, value, total in _distinct(found)) or (Reading(shape),)


def _read_open_bar(bar: re.Match[str]) -> tuple[Reading, ...]:
    """Read a tqdm bar without a total (``1234 examples [00:01, 900 examples/s]``)."""
    shape = _hash(_scan(bar["head"])[0] + "|n")
    if _WAITING.search(bar["head"]):
        return (Reading(shape),)
    unit = bar["unit"]
    is_size = re.fullmatch(_SIZE, unit) is not None
    value = _number(bar["n"]) * (_scale(unit) if is_size else 1.0)
    return (Reading(shape, "bytes" if is_size else unit.lower(), value),)


def _postfix(tail: str) -> str:
    """Return what follows the rate in a bar's brackets: ``loss=0.3, lr=5e-05``."""
    return ", ".join(part for part in tail.split(", ")[1:] if "=" in part or ":" in part)


def _scan(text: str) -> tuple[str, list[tuple[str, float, float | None]], list[float]]:
    """Return the text with every number replaced, blanks folded, the counters in it (name, value, total), and possible indexes."""
    found: list[tuple[str, float, float | None]] = []
    indexes: list[float] = []
    if not _HAS_NUMBER.search(text):
        return " ".join(text.split()), found, indexes
    parts: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        parts.append("#")
        end = token.end()
        kind = token.lastgroup
        entry = _counter(token, text) if kind not in ("skip", "digits", "nan") and len(found) < MOST_READINGS else None
        if entry is not None:
            found.append(entry)
        elif kind in ("number", "digits") and len(indexes) < MOST_INDEXES and _is_index(token, text):
            indexes.append(float(token[0].rstrip(".,")))
    parts.append(text[end:])
    return " ".join("".join(parts).split()), _distinct(found), indexes


def _is_index(token: re.Match[str], text: str) -> bool:
    """Whether a bare number may be the index of its line: whole, no id, and nothing that grows while nothing gets done.

    ``host:29500`` and ``run.py:792`` are places, ``rank0`` and ``Thread-7`` name somebody.
    """
    start, digits = token.start(), token[0].rstrip(".,")
    if not digits.isdecimal() or len(digits) > INDEX_DIGITS or text[max(0, start - 1) : start] == ":":
        return False
    if _SOMEBODY.search(text[max(0, start - 24) : start]):
        return False
    before, after = _BEFORE.search(text[max(0, start - 24) : start]), _NEXT.match(text[token.end() : token.end() + 24])
    near = (_words(before[1]) if before else set()) | (_words(after[1]) if after else set())
    return NEVER.isdisjoint(near)


def _counter(token: re.Match[str], text: str) -> tuple[str, float, float | None] | None:
    """Return what a number counts, or None where it is none that may count."""
    before = text[max(0, token.start() - 48) : token.start()]
    after = text[token.end() : token.end() + 24]
    key = _KEY.search(before)
    name = key["name"].lower().strip("./-") if key is not None else ""
    if key is not None and _is_never(key["name"]):
        return None
    if token["n"] is not None or token["open"] is not None or token["percent"] is not None:
        return None if _is_described(before, after, is_size=bool(token["total_unit"])) else _share(token)
    raw, scale = (token["number"], 1.0) if token["number"] is not None else (token["size"], _scale(token["size_unit"]))
    if key is not None and _is_key(key, name, is_plain=token["number"] is not None):
        return name, _number(raw) * scale, None
    unit = _UNIT.match(after)
    if unit is not None and token["number"] is not None and unit["unit"].lower() in COUNTERS:
        return unit["unit"].lower(), _number(raw), None
    return None


def _share(token: re.Match[str]) -> tuple[str, float, float | None]:
    """Return a number with the total it counts towards; percent count towards 100, ``120/?`` towards nothing known."""
    if token["percent"] is not None:
        return "%", _number(token["percent"]), 100.0
    if token["open"] is not None:
        return "n/total", _number(token["open"]), None
    # ``12.3/45.6 MB``: the unit behind the total is the unit of both.
    total_unit = token["total_unit"] or ""
    return "n/total", _number(token["n"]) * _scale(token["n_unit"] or total_unit), _number(token["total"]) * _scale(total_unit)


def _is_described(before: str, after: str, *, is_size: bool) -> bool:
    """Return whether the words around a share say that it is one of memory, load or the like (``VRAM 12/80 GiB``, ``9 % CPU``)."""
    near = _CLAUSE.split(before)[-1].split()[-3:]
    following = _NEXT.match(after)
    words = _words(" ".join(near)) | (_words(following[1]) if following else set())
    return not STATES.isdisjoint(words) or (is_size and not MEMORY.isdisjoint(_words(before)))


def _is_key(key: re.Match[str], name: str, *, is_plain: bool) -> bool:
    """Return whether the word before a number names it.

    With ``=``, or with a colon and a blank or a quote, any word does; ``run.py:792`` and ``host:29500`` are places, and without a
    sign (``step 12``) only a word that is known to count does, and before a size one that says it was moved.
    """
    sign = key["sep"].strip(" [('\"")
    if sign == "=":
        return True
    if sign == ":" and (key["quote"] or key["sep"] != ":"):
        return not name.endswith((".py", ".cc", ".cpp", ".cu", ".rs"))
    return name in (COUNTERS if is_plain else MOVED)


def _is_never(name: str) -> bool:
    """Return whether one of a name's words says that the number means no progress."""
    return name.lower() not in KEPT_RATES and not NEVER.isdisjoint(_words(name))


def _words(text: str) -> set[str]:
    """Return the words of a name or phrase, also those that only capitals part (``MemAllocated``)."""
    return {word.lower() for word in _CAPITALS.findall(text)} | set(_WORDS.findall(text.lower()))


def _distinct(found: list[tuple[str, float, float | None]]) -> list[tuple[str, float, float | None]]:
    """Return the first of each name and total: a second one would look like the first one jumping."""
    seen: set[tuple[str, float | None]] = set()
    kept = []
    for entry in found:
        place = (entry[0], entry[2])
        if place not in seen and math.isfinite(entry[1]) and math.isfinite(entry[2] or 0.0):
            seen.add(place)
            kept.append(entry)
    return kept


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _scale(unit: str) -> float:
    """Return the factor of a size unit: 1000 as tqdm counts, 1024 where an ``i`` says so."""
    letters = unit.strip().lower()
    if letters in ("", "b", "bytes", "byte"):
        return 1.0
    if letters[1:2] == "i":
        return float(1024 ** "kmgtp".index(letters[0]) * 1024)
    return _SCALE[letters[0]]


def _hash(skeleton: str) -> str:
    return f"{zlib.crc32(skeleton.encode('utf-8', 'replace')):08x}"
