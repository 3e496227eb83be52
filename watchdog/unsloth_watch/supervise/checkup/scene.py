"""What is looked at: the command, its environment and directory, its Python, and where its caches would be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.act.isolation import Choice, decide
from unsloth_watch.capture.interpreter import Interpreter, ask_interpreter, find_interpreter
from unsloth_watch.capture.process import read_start
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.process import ProcessRef


class Scene(msgspec.Struct, frozen=True):
    """A launch that has not happened.

    Attributes:
        command: Argument vector; empty where only the machine is looked at.
        environment: The command's environment, with the places of caches that the launch would set.
        cwd: Its working directory.
        interpreter: Its Python; None where it has none.
        choices: What the launch would decide about the compile caches.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    cwd: str
    interpreter: Interpreter | None
    choices: tuple[Choice, ...] = ()

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions by distribution; empty where there is no Python or it did not answer."""
        return self.interpreter.versions if self.interpreter is not None else {}

    @property
    def has_ranks(self) -> bool:
        """Whether the command starts several ranks."""
        launchers = {"torchrun", "accelerate", "deepspeed", "mpirun", "mpiexec", "srun"}
        words = {os.path.basename(word) for word in self.command[:3]} | set(self.command[:4])
        world = self.environment.get("WORLD_SIZE", "1")
        return bool(words & {*launchers, "torch.distributed.run", "torch.distributed.launch"}) or (
            world.isdecimal() and int(world) > 1
        )

    def to_process(self) -> ProcessEvidence:
        """Return what the command will be, as far as its caches and its import path are concerned."""
        assert self.interpreter is not None
        # Our own identity stands for it: the paths mean the same to both.
        ref = ProcessRef(os.getpid(), read_start(os.getpid()) or 0)
        version = self.interpreter.version
        return ProcessEvidence(
            ref,
            os.getppid(),
            command=self.interpreter.command,
            executable=self.interpreter.path,
            cwd=self.cwd,
            environment=self.environment,
            uid=os.geteuid(),
            python_version=version,
        )


def look(command: Sequence[str], environment: Mapping[str, str], cwd: str, cache: str) -> Scene:
    """Return what there is to look at.

    Args:
        command: Argument vector; empty for none, then the first Python of ``PATH`` is taken.
        environment: Our own environment.
        cwd: Our own directory.
        cache: The setting ``cache``.
    """
    interpreter = find_interpreter(command, environment, cwd)
    if interpreter is not None:
        interpreter = ask_interpreter(interpreter, environment)
    subject = tuple(command) or (interpreter.command if interpreter is not None else ())
    choices = decide(cache, environment, subject, cwd)[3] if subject else ()
    places = {choice.variable: choice.path for choice in choices if choice.path is not None}
    return Scene(tuple(command), {**environment, **places}, cwd, interpreter, choices)
