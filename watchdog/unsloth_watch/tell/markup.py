"""Foreign text within Markdown: escaped, or set as code that it cannot leave."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~&$])")
_MENTION = re.compile(r"@(?=[A-Za-z0-9])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_BREAKS_IN_LINE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


_CODE = re.compile(
    r"(?<!\S)(?:pip install(?: -\S+)* \S+|(?:kill|fuser|fsfreeze|nvidia-smi)(?: -\S+| \d+| \S*/\S*)+"
    r"|--[a-z]\S*|\S*[_=<>/$*~`|{}\[\]\\]\S*)"
)
"""What in a sentence is to be copied rather than read: commands of our advice, long options, and words with signs of code."""


def flatten(text: str) -> str:
    """Return text on one line: line ends, control characters and those that turn the direction of writing become a space."""
    return _BREAKS.sub(" ", text)


def flatten_lines(text: str) -> str:
    """Return text in its lines, each of them flat."""
    return _BREAKS_IN_LINE.sub(" ", text)


def escape(text: object) -> str:
    """Return foreign prose as one line that Markdown, HTML and GitHub's mentions leave alone."""
    plain = _SPECIAL.sub(_escape_sign, flatten(str(text)))
    return spare_mentions(plain)


def mark_code(text: object) -> str:
    """Return foreign prose as one line, with what is code in it as code, so that it can be copied as it is shown."""
    plain = flatten(str(text))
    parts: list[str] = []
    copied = 0
    for match in _CODE.finditer(plain):
        words = match.group().rstrip(".,;:").lstrip("(")
        if words.endswith(")") and words.count(")") > words.count("("):
            words = words[:-1]
        start = plain.index(words, match.start())
        parts += [escape(plain[copied:start]), code(words)]
        copied = start + len(words)
    return "".join([*parts, escape(plain[copied:])])


def spare_mentions(text: str) -> str:
    """Put a word joiner after each @, so that nobody is notified."""
    return _MENTION.sub("@\u2060", text)


def _escape_sign(match: re.Match[str]) -> str:
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return entities.get(match.group(), "\\" + match.group())


def code(text: object, *, is_cell: bool = False) -> str:
    """Return foreign text as code on one line; in a table cell no pipe of it ends the cell."""
    plain = flatten(str(text)) or " "
    if is_cell and "|" in plain:
        # ``\\|`` splits a cell after an escaped backslash, so that no escape of a pipe is safe in a span: entities are.
        return "<code>" + "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in plain) + "</code>"
    fence = "`" * (_longest_run(plain) + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def fence(text: str, language: str = "text") -> str:
    """Return foreign text as a fenced block that it cannot leave."""
    marks = "`" * max(3, _longest_run(text) + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
