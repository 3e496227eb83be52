"""Names that say "secret": of variables, options and keys; and values that can be no secret whatever the name says."""

from __future__ import annotations

import re

# Tokens that a language model is made of are no secrets: --pad-token, EOS_TOKEN, max_tokens, TOKENIZERS_PARALLELISM.
_HARMLESS_WORDS = (
    r"(?<!pad)(?<!eos)(?<!bos)(?<!unk)(?<!mask)(?<!sep)(?<!cls)(?<!max)(?<!min)(?<!num)(?<!image)(?<!audio)(?<!video)(?<!special)"
    r"(?<!per)(?<!new)(?<!stop)(?<!start)(?<!end)(?<!prompt)(?<!response)(?<!assistant)(?<!user)(?<!extra)(?<!batch)(?<!next)"
    r"(?<!last)(?<!first)(?<!think)(?<!prefix)(?<!suffix)(?<!middle)"
)
# One lookbehind list serves eos_token, eos-token and eostoken.
_TOKEN = rf"(?:{_HARMLESS_WORDS}[_-]|(?<![a-z_-]))token(?![a-z])|[a-z](?:auth|access|api|id|session|bearer|hub|hf)token(?![a-z])"
_STRONG = (
    rf"passw(?:or)?d|passphrase|secret|credential|cookie|private[_-]?key|{_TOKEN}"
    r"|(?:api|access|auth|secret|license|account|encryption|signing|master|deploy|service)[_-]?keys?(?![a-z])"
)
_WEAK = r"[_-]key(?![a-z])|(?<![a-z])auth(?![a-z])|(?<![a-z])dsn(?![a-z])|(?<![a-z])pass(?![a-z])|(?<![a-z])pat(?![a-z])"
_PASSWORD = r"pass(?:w|phrase|$|_)"  # noqa: S105 - a pattern
# A base64 value may begin with a slash; a path's first part is short, plain and lower-case.
_PATH = r"(?:~|\.{1,2})?/(?:[a-z][a-z0-9._-]{0,15}(?:/|$)|$)|[A-Za-z]:\\|file:"
_PLAIN_WORDS = frozenset(
    "true false yes no on off none null auto always never default enabled disabled basic bearer token".split()  # noqa: SIM905  twenty quoted words hide the words
)
_MIXED = r"(?=.*[0-9])(?=.*[A-Za-z])|(?=.*[a-z].*[A-Z])(?=.*[A-Z].*[a-z])|.*[^\w\s./:-]"
_HINTS = ("pass", "secret", "credential", "cookie", "key", "token", "auth", "dsn", "pat")
"""What a lower-cased name that promises a secret has in it; ``pat`` is in every ``PATH``, which is left out first.

Most names have none of them, and the patterns take 2 ms to compile: ``re`` does it when the first name asks for it."""

SHORTEST = 6
"""Shortest value, in characters, that is looked for in other texts: shorter ones occur everywhere by chance."""


def is_secret_name(name: str) -> bool:
    """Whether a name of a variable, option or key promises a secret, firmly or perhaps."""
    return _has_hint(name) and bool(re.search(_STRONG, name, re.IGNORECASE) or re.search(_WEAK, name, re.IGNORECASE))


def is_secret(name: str, value: str) -> bool:
    """Whether ``value`` is a secret, given its name: switches, numbers, paths and plain words are not.

    A name that says it firmly (``PASSWORD``, ``API_KEY``) is believed for any other value; one that says it perhaps (``SORT_KEY``,
    ``AUTH``) only for a value of eight characters that mixes letters with digits, cases or signs.
    """
    value = value.strip()
    if not _has_hint(name) or not value or "‹" in value or value.lower() in _PLAIN_WORDS or re.match(_PATH, value):
        return False
    if re.search(_STRONG, name, re.IGNORECASE):
        return bool(re.search(_PASSWORD, name, re.IGNORECASE)) or not value.isdigit()
    is_weak = bool(re.search(_WEAK, name, re.IGNORECASE))
    return is_weak and len(value) >= 8 and not value.isdigit() and bool(re.match(_MIXED, value))


def name_kind(name: str) -> str:
    """Return the word that stands in the placeholder: ``password``, ``token``, ``cookie``, ``key`` or ``secret``."""
    lowered = name.lower()
    if re.search(_PASSWORD, name, re.IGNORECASE):
        return "password"
    return next((kind for kind in ("token", "cookie", "key") if kind in lowered), "secret")


def _has_hint(name: str) -> bool:
    lowered = name.lower().replace("path", " ")
    return any(hint in lowered for hint in _HINTS)
