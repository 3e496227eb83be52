"""The Python that a command will run, and the versions that it will import, asked of that Python itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.capture.command import run_command
from unsloth_watch.capture.deadline import DeadlineError
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.versions import DISTRIBUTIONS, normalise_name
from unsloth_watch.model.invocation import is_python
from unsloth_watch.model.wrapper import is_wrapper, list_pythons

_ASK = """
import sys
sys.path[:1] = []  # the working directory: a json.py in it is not for us
import json, os
from importlib import metadata
names, places = {}, {}
for found in metadata.distributions():
    try:
        name = found.metadata["Name"]
        if name not in names:
            names[name], places[name] = found.version, str(found.locate_file(""))
    except Exception:
        pass
sys.stdout.write(json.dumps([sys.version.split()[0], names, places]))
"""
# A distribution without metadata is passed over: one broken directory must not hide all others.
DEADLINE_S = 20.0
"""Seconds for the answer: 0.3 s with 200 distributions on a local disk, some seconds on a cold network disk."""
_HEAD_BYTES = 256
_UNDERSCORED = {"unsloth-zoo": "unsloth_zoo", "huggingface-hub": "huggingface_hub"}


class Interpreter(msgspec.Struct, frozen=True):
    """A Python.

    Attributes:
        path: Its program.
        command: What the kernel will run: the interpreter, then a script with its arguments.
        source: How it was found.
        version: Its version; None where it did not answer.
        versions: Versions by distribution, of those that matter.
        places: Directories that these are installed in.
        problem: Why it could not be asked; empty if it could.
    """

    path: str
    command: tuple[str, ...]
    source: str
    version: str | None = None
    versions: dict[str, str] = {}
    places: dict[str, str] = {}
    problem: str = ""


def find_interpreter(command: Sequence[str], environment: Mapping[str, str], cwd: str) -> Interpreter | None:
    """Return the Python that a command runs: itself, that of its first line, or for a wrapper the one that it names or would find.

    Returns:
        None where the command starts no Python that could be known.
    """
    path = find_program(command[0], environment, cwd) if command else None
    if path is not None and is_python((path,), None):
        return Interpreter(path, tuple(command), "the command")
    words = _read_shebang(path) if path is not None else []
    if words and os.path.basename(words[0]) == "env":
        words = [find_program(words[-1], environment, cwd) or words[-1]]
    if path is not None and words and is_python(words[:1], None):
        return Interpreter(words[0], (*words, path, *command[1:]), f"the first line of {path}")
    if command and not words and not is_wrapper(command[0]):
        return None
    for name in list_pythons(command) if command and is_wrapper(command[0]) else ("python", "python3"):
        found = find_program(name, environment, cwd)
        if found is not None:
            rest = tuple(command[command.index(name) + 1 :]) if name in command else ()
            return Interpreter(found, (found, *rest), "the command" if name in command else "the first on PATH")
    return None


def ask_interpreter(interpreter: Interpreter, environment: Mapping[str, str]) -> Interpreter:
    """Return it with its version and what is installed for it; nothing of that is imported."""
    try:
        outcome = run_command([interpreter.path, "-c", _ASK], DEADLINE_S, env=environment)
        if outcome.rc != 0:
            reason = "no answer in time" if outcome.timed_out else decode(outcome.stderr).strip().splitlines()[-1:]
            return msgspec.structs.replace(interpreter, problem=str(reason[0] if isinstance(reason, list) and reason else reason))
        version, names, places = msgspec.json.decode(outcome.stdout, type=tuple[str, dict[str, str], dict[str, str]])
    except (OSError, DeadlineError, msgspec.MsgspecError) as error:
        return msgspec.structs.replace(interpreter, problem=str(error))
    return msgspec.structs.replace(interpreter, version=version, versions=_select(names), places=_select(places))


def _select(values: Mapping[str, str]) -> dict[str, str]:
    normal = {normalise_name(name): value for name, value in values.items()}
    return {_UNDERSCORED.get(name, name): value for name, value in normal.items() if name in DISTRIBUTIONS}


def find_unread(names: Sequence[str], interpreter: Interpreter, libraries: Sequence[str]) -> tuple[str, ...]:
    """Return the variables that no Python file of the given libraries names, empty where one of these cannot be searched in full.

    The 400 files of unsloth and unsloth_zoo 2026.10.7 take 13 ms once they are in memory.
    """
    left = {name: name.encode() for name in names}
    places = [os.path.join(interpreter.places[library], library) for library in libraries if library in interpreter.places]
    if not places or not all(os.path.isdir(place) for place in places):
        return ()  # an editable install, whose sources lie elsewhere
    for place in places:
        for directory, _, files in os.walk(place):
            for path in (os.path.join(directory, file) for file in files if file.endswith(".py")):
                try:
                    with open(path, "rb") as file:
                        text = file.read()
                except OSError:
                    return ()
                left = {name: word for name, word in left.items() if word not in text}
    return tuple(left)


def find_program(name: str, environment: Mapping[str, str], cwd: str) -> str | None:
    """Return the path that ``execvp`` would take; None where there is none."""
    directories = [""] if "/" in name else environment.get("PATH", os.defpath).split(os.pathsep)
    for directory in directories:
        path = os.path.join(cwd, directory, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def _read_shebang(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            line = file.read(_HEAD_BYTES).partition(b"\n")[0]
    except OSError:
        return []
    return decode(line[2:]).split() if line.startswith(b"#!") else []
