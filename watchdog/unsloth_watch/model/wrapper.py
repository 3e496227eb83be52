"""Commands that start another command: which Python such a command most likely runs. On the launch path: imports nothing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WRAPPERS = frozenset(
    (
        "bash", "chrt", "dash", "env", "ionice", "make", "mpiexec", "mpirun", "nice", "nohup", "numactl", "poetry", "setpriv", "sh",
        "srun", "stdbuf", "taskset", "time", "timeout", "uv", "xvfb-run", "zsh",
    )
)  # fmt: skip


def is_wrapper(program: str) -> bool:
    """Whether a program, by its name, is a shell, a shell script, or starts what its arguments say."""
    name = program.rpartition("/")[2]
    return name in WRAPPERS or name.endswith(".sh")


def list_pythons(command: Sequence[str]) -> tuple[str, ...]:
    """Return the programs that may be the Python which a command runs, the likeliest first.

    For a wrapper that is the first argument called python, else what a shell script would find on ``PATH``.
    """
    if not is_wrapper(command[0]):
        return (command[0],)
    named = [word for word in command[1:] if word.rpartition("/")[2].startswith("python") and not word.endswith(".py")]
    return (*named[:1], "python", "python3")
