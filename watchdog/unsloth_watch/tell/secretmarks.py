"""Marks of a run's secrets: by them a later process finds the secrets in a text, and nobody can read them back.

``output.log`` holds what was printed as it came, and the variables whose values are secret are gone with the run: another shell has
other ones, or none. So a run with an incident leaves the length and 32 bits of a keyed hash of each secret, in a file that stays
beside the raw output, with its rights, and in no bundle. Of a random token that says nothing; a password of few words could be
tried out by who may read the raw output anyway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from unsloth_watch.tell.atomic import write_atomically
from unsloth_watch.tell.lines import encode_line

NAME = "redaction.json"
SCHEMA = "unsloth-watch/redaction/1"
_BYTES = 4
"""Of the hash: in 4 MiB of text one window in a thousand bundles is taken for a secret by chance, and is then replaced in vain."""


class Mark(msgspec.Struct, frozen=True):
    """One way to write one secret.

    Attributes:
        placeholder: What stands for it in the run's records.
        length: Its characters.
        digest: Hexadecimal.
        is_word: Whether it holds no white space, so that only long words have to be searched.
    """

    placeholder: str
    length: int
    digest: str
    is_word: bool


class Marks(msgspec.Struct, frozen=True):
    """Those of a run.

    Attributes:
        schema: Version of this shape.
        key: Of the hash, hexadecimal.
        marks: One for each way to write each secret.
    """

    schema: str
    key: str
    marks: tuple[Mark, ...]


def make_marks(secrets: Mapping[str, str]) -> Marks:
    """Return the marks of secrets, given with their placeholders."""
    key = os.urandom(16)
    marks = tuple(
        Mark(placeholder, len(secret), _hash(secret, key), not re.search(r"\s", secret)) for secret, placeholder in secrets.items()
    )
    return Marks(SCHEMA, key.hex(), marks)


def write_marks(directory: str, marks: Marks) -> None:
    """Leave marks in a run directory, mode 0600.

    Raises:
        OSError: They cannot be written.
    """
    write_atomically(os.path.join(directory, NAME), encode_line(marks) + b"\n")


def read_marks(directory: str) -> Marks | None:
    """Return the marks of a run, None where it left none that can be read: it is an older one, or its disk was full."""
    try:
        with open(os.path.join(directory, NAME), "rb") as stream:
            return msgspec.json.decode(stream.read(), type=Marks)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def hide(text: str, marks: Marks) -> str:
    """Return a text with every secret that has a mark replaced by its placeholder; 1 to 3 s for 4 MiB."""
    key = bytes.fromhex(marks.key)
    by_size: dict[tuple[int, bool], dict[str, str]] = {}
    for mark in marks.marks:
        by_size.setdefault((mark.length, mark.is_word), {})[mark.digest] = mark.placeholder
    for length, is_word in sorted(by_size, reverse=True):
        text = _hide_size(text, length, by_size[length, is_word], key, is_word=is_word)
    return text


def _hide_size(text: str, length: int, known: Mapping[str, str], key: bytes, *, is_word: bool) -> str:
    parts: list[str] = []
    copied = 0
    for match in re.finditer(rf"\S{{{length},}}" if is_word else r"(?s).+", text):
        start, last = match.start(), match.end() - length
        while start <= last:
            placeholder = known.get(_hash(text[start : start + length], key))
            if placeholder is None:
                start += 1
                continue
            parts += [text[copied:start], placeholder]
            start = copied = start + length
    return "".join([*parts, text[copied:]])


def _hash(text: str, key: bytes) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=_BYTES).hexdigest()
