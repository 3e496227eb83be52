"""Applies remedies between two attempts: variables, private directories, and moving aside what is in the way; all can be undone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping

import msgspec

from unsloth_watch.act.change import Change, MendError
from unsloth_watch.act.move import is_link
from unsloth_watch.act.orphanlock import set_aside
from unsloth_watch.act.quarantine import quarantine
from unsloth_watch.model.diagnosis import Remedy

PRIVATE = "{private}"
"""Stands for the private directory in a remedy's values."""


class Applied(msgspec.Struct, frozen=True):
    """What came of a remedy.

    Attributes:
        environment: The environment of the next attempt.
        changes: What was changed, in order.
        refused: What was not done and why, one phrase each.
    """

    environment: dict[str, str]
    changes: tuple[Change, ...] = ()
    refused: tuple[str, ...] = ()


def apply(
    remedy: Remedy,
    environment: Mapping[str, str],
    private_dir: str,
    quarantine_dir: str,
    is_anyone_alive: Callable[[], bool],
    *,
    cwd: str | None = None,
    user: Mapping[str, str] | None = None,
    is_input_free: bool = True,
) -> Applied:
    """Apply a remedy to the environment of the next attempt and to the file system.

    A part that is refused is named in the result; the others are still done.

    Args:
        remedy: What to do.
        environment: Environment that the next attempt would have.
        private_dir: Directory for private caches of this project and version, made with mode 0700.
        quarantine_dir: Directory of this run for things that are moved aside.
        is_anyone_alive: Whether a process of the job still lives; nothing is moved while that is so.
        cwd: The job's working directory, which is never moved itself.
        user: The user's own environment: a variable set there stays as it is, unless the remedy names it as part of the cause or
            takes it away altogether. Lists that get an entry in front keep the user's.
        is_input_free: Whether the user left the choice of a standard input to us.
    """
    changes: list[Change] = []
    refused: list[str] = []
    for path in remedy.quarantine:
        if is_anyone_alive():
            refused.append(f"{path} stays: a process of the job still lives")
            continue
        try:
            is_file = os.path.isfile(path) and not is_link(path)
            changes.append((set_aside if is_file else quarantine)(path, quarantine_dir, keep=(cwd,) if cwd else ()))
        except (OSError, MendError) as error:
            refused.append(str(error))
    has_private = True
    for path in remedy.make_directories:
        try:
            changes += make_directory(path.replace(PRIVATE, private_dir))
        except OSError as error:
            has_private = False
            refused.append(f"{error.filename or path} could not be made: {error.strerror}")
    mended = dict(environment)
    for name, template in remedy.environment.items():
        if template is not None and PRIVATE in template and not has_private:
            refused.append(f"{name} stays as it is: there is no directory to point it to")
            continue
        is_users = user is not None and name in user and mended.get(name) == user[name]
        if is_users and template not in (None, mended[name]) and name not in remedy.overrides:
            refused.append(f"{name}={mended[name]} stays: you set it, and nothing shows that it is the cause")
            continue
        changes += _set(mended, name, None if template is None else template.replace(PRIVATE, private_dir))
    for name, template in remedy.prepend_path.items():
        changes += _set(mended, name, prepend(template.replace(PRIVATE, private_dir), mended.get(name)))
    if remedy.stdin == "null" and is_input_free:
        changes.append(Change("standard input", "stdin", "inherited", os.devnull, "start with --stdin inherit"))
    elif remedy.stdin == "null":
        refused.append("the standard input stays: you chose it with --stdin")
    return Applied(mended, tuple(changes), tuple(refused))


def prepend(entries: str, value: str | None) -> str:
    """Return a path list with entries in front, each once.

    An empty value gets no trailing colon, which would mean the working directory; an empty entry that the user wrote is kept.
    """
    front = [entry for entry in entries.split(os.pathsep) if entry]
    rest = [entry for entry in value.split(os.pathsep) if entry not in front] if value else []
    return os.pathsep.join([*front, *rest])


def _set(environment: dict[str, str], name: str, value: str | None) -> Iterable[Change]:
    before = environment.get(name)
    if before == value:
        return ()
    if value is None:
        del environment[name]
    else:
        environment[name] = value
    undo = f"unset {name}" if before is None else "export {}='{}'".format(name, before.replace("'", "'\\''"))
    return (Change(name, "environment", before, value, undo),)


def make_directory(path: str) -> tuple[Change, ...]:
    """Make a directory of mode 0700 and what is missing above it; return the change, nothing where it is already there.

    Raises:
        OSError: It cannot be made, or something that is no directory is in its place.
    """
    if os.path.isdir(path):
        return ()
    missing = path
    while not os.path.lexists(os.path.dirname(missing)):
        missing = os.path.dirname(missing)
    mask = os.umask(0o077)  # not makedirs' mode: that counts for the last directory only
    try:
        os.makedirs(path)
    finally:
        os.umask(mask)
    return (Change(missing, "directory", None, path, f"rm -r {shlex.quote(missing)}"),)
