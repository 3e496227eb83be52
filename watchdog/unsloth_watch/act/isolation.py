"""Gives a project compile caches of its own before the command is launched, or leaves them where they are, and says why.

On the launch path: imports nothing heavy. Only what a compiler can make again is moved; models and data sets stay shared.
A cache that is warm at its usual place is never made cold, nor one that a next run would not find again: a trivial
``torch.compile`` took 25 s with an empty cache and 3.5 s with a warm one (2 busy cores).
"""

from __future__ import annotations

import fcntl
import os

from unsloth_watch.act.installed import read_installed
from unsloth_watch.act.project import SIGNS, find_cache_home, find_project, name_project

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARKER = "project.json"
"""File that makes a directory recognisable as a project's caches. Its lock is held as long as a supervisor uses them."""
LOCATION_SINCE = (2025, 7, 11)
"""First unsloth_zoo that reads UNSLOTH_COMPILE_LOCATION; until then the cache is always below the working directory."""
_NETWORK = ("nfs", "cifs", "smb3", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "fuse.sshfs", "fuse.glusterfs", "virtiofs")
_TRIES = 3


class Choice:
    """What was decided about one cache.

    Attributes:
        cache: Id of the registry: ``unsloth-compiled``, ``inductor`` or ``triton``.
        variable: Variable that moves it.
        path: Its place for this run; None where it was left alone.
        why: Why, as a phrase for people.
    """

    __slots__ = ("cache", "path", "variable", "why")

    def __init__(self, cache: str, variable: str, path: str | None, why: str) -> None:
        self.cache = cache
        self.variable = variable
        self.path = path
        self.why = why


class Isolation:
    """All decisions of a launch.

    Attributes:
        choices: One for each compile cache of a library that is installed.
        trouble: What kept a cache from being moved although that was wanted; None if nothing did.
        lock_fd: Open while the run lasts, with a shared lock that keeps ``cache prune`` away; None where nothing of ours is used.
    """

    __slots__ = ("choices", "lock_fd", "trouble")

    def __init__(self, choices: tuple[Choice, ...] = (), trouble: str | None = None, lock_fd: int | None = None) -> None:
        self.choices = choices
        self.trouble = trouble
        self.lock_fd = lock_fd

    @property
    def variables(self) -> dict[str, str]:
        """What the command's environment gets."""
        return {choice.variable: choice.path for choice in self.choices if choice.path is not None}


class _Kind:
    __slots__ = ("cache", "folder", "library", "others", "variable")

    def __init__(self, cache: str, variable: str, library: str, folder: str, others: tuple[str, ...] = ()) -> None:
        self.cache, self.variable, self.library, self.folder, self.others = cache, variable, library, folder, others


_KINDS = (
    # The folder's name is kept: it is also that of the library's fallback below the temporary directory.
    _Kind("unsloth-compiled", "UNSLOTH_COMPILE_LOCATION", "unsloth_zoo", "unsloth_compiled_cache"),
    _Kind("inductor", "TORCHINDUCTOR_CACHE_DIR", "torch", "inductor"),
    _Kind("triton", "TRITON_CACHE_DIR", "triton", "triton", ("TRITON_HOME",)),
)


def isolate(setting: str, environment: Mapping[str, str], command: Sequence[str], cwd: str) -> Isolation:
    """Decide where this run's compile caches are, and make the directories. Nothing that goes wrong here stops a launch.

    Args:
        setting: ``auto``, ``keep`` or a directory.
        environment: The user's environment; a variable that is set there wins.
        command: Argument vector.
        cwd: Working directory.
    """
    home, root, installed, choices = decide(setting, environment, command, cwd)
    wanted = [choice for choice in choices if choice.path is not None]
    if not wanted:
        return Isolation(choices)
    lock_fd = None
    try:
        if setting == "auto" and is_network(home):
            raise OSError(0, f"{home} lies on a network file system, on which locks and small files are slow")
        for choice in wanted:
            _make_private(choice.path or home)
            if not os.access(choice.path or home, os.W_OK | os.X_OK):
                raise OSError(0, f"{choice.path} may not be written")
        lock_fd = _hold(home, root or cwd, installed) if setting == "auto" else None
    except OSError as error:
        reason = str(error.strerror) + (f" ({error.filename})" if error.filename else "")
        kept = tuple(
            Choice(one.cache, one.variable, None, f"left where it is: {reason}") if one in wanted else one for one in choices
        )
        return Isolation(kept, f"--cache {setting}: compile caches stay where they are: {reason}")
    return Isolation(choices, None, lock_fd)


def decide(
    setting: str, environment: Mapping[str, str], command: Sequence[str], cwd: str
) -> tuple[str, str | None, dict[str, str], tuple[Choice, ...]]:
    """Return what `isolate` would do, and change nothing: the place, the project's root, the versions, and the choices."""
    installed = read_installed(command, environment, cwd) if setting != "keep" else {}
    kinds = [kind for kind in _KINDS if kind.library in installed]
    is_asked = setting != "auto"
    root: str | None
    if is_asked:
        root, home = cwd, os.path.abspath(os.path.join(cwd, os.path.expanduser(setting)))
    else:
        root = find_project(cwd, command, environment) if kinds else None
        home = os.path.join(find_cache_home(environment), name_project(root or cwd, installed))
    choices = [_decide(kind, home, environment, installed, cwd, is_asked=is_asked, has_root=root is not None) for kind in kinds]
    return home, root, installed, tuple(choices)


def _decide(
    kind: _Kind,
    home: str,
    environment: Mapping[str, str],
    installed: Mapping[str, str],
    cwd: str,
    *,
    is_asked: bool,
    has_root: bool,
) -> Choice:
    kept = _find_obstacle(kind, environment, installed, cwd)
    path = os.path.join(home, kind.folder)
    if kept is None and not is_asked and not os.path.isdir(path):
        kept = _find_loss(kind, environment, cwd, has_root=has_root)
    if kept is not None:
        return Choice(kind.cache, kind.variable, None, kept)
    why = "--cache names the place" if is_asked else "a place for this project and these versions alone"
    return Choice(kind.cache, kind.variable, path, why)


def _find_obstacle(kind: _Kind, environment: Mapping[str, str], installed: Mapping[str, str], cwd: str) -> str | None:
    """Return why a cache cannot or may not be moved."""
    own = next((name for name in (kind.variable, *kind.others) if environment.get(name)), None)
    if own is not None:
        return f"{own} is set by the user"
    version = installed[kind.library]
    if kind.cache == "unsloth-compiled" and not _reads_location(version):
        return f"unsloth_zoo {version} does not read {kind.variable}: its cache is always {cwd}/unsloth_compiled_cache"
    if kind.cache == "inductor" and "unsloth" in installed:
        return f"import unsloth removes {kind.variable}: the cache stays below TMPDIR"
    return None


def _find_loss(kind: _Kind, environment: Mapping[str, str], cwd: str, *, has_root: bool) -> str | None:
    """Return what would be lost by moving a cache unasked; entries of Unsloth's are written anew at every start, so nothing is."""
    if kind.cache != "unsloth-compiled" and not has_root:
        # A job in a fresh scratch directory would start cold every time.
        return f"{cwd} is in no project (no {', '.join(SIGNS)} above it or the script)"
    warm = next(filter(_has_content, _usual_places(kind, environment, cwd)), None)
    return None if warm is None else f"{warm} is warm: another place would have to be filled again"


def _reads_location(version: str) -> bool:
    numbers = [int(part) if part.isdecimal() else -1 for part in version.split(".")[:3]]
    return tuple(numbers) >= LOCATION_SINCE


def _usual_places(kind: _Kind, environment: Mapping[str, str], cwd: str) -> tuple[str, ...]:
    """Return where the cache would be without us and may be warm."""
    if kind.cache == "unsloth-compiled":
        # Written anew at every start, so that nothing is lost, unless the user said otherwise.
        return (os.path.join(cwd, "unsloth_compiled_cache"),) if environment.get("UNSLOTH_COMPILE_OVERWRITE") == "0" else ()
    inductor = os.path.join(find_temp(environment), f"torchinductor_{_find_user(environment)}")
    if kind.cache == "inductor":
        return (inductor,)
    # Inductor keeps its kernels in a Triton cache below its own; TRITON_CACHE_DIR moves those, too.
    home = environment.get("HOME") or os.path.expanduser("~")
    below = environment.get("TORCHINDUCTOR_CACHE_DIR") or inductor
    return os.path.join(home, ".triton", "cache"), os.path.join(below, "triton")


def find_temp(environment: Mapping[str, str]) -> str:
    """Return the directory that ``tempfile`` takes first."""
    return next((environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)), "/tmp")  # noqa: S108


def _find_user(environment: Mapping[str, str]) -> str:
    """Return the user's name as ``getpass.getuser`` does, which names Inductor's directory."""
    user = next((environment[name] for name in ("LOGNAME", "USER", "LNAME", "USERNAME") if environment.get(name)), None)
    if user is None:
        import pwd  # noqa: PLC0415 - only without a name in the environment

        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
    return user


def _has_content(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            # Locks alone warm nothing.
            return any(entry.name not in ("locks", ".locks") for entry in entries)
    except OSError:
        return False


def _hold(home: str, cwd: str, installed: Mapping[str, str]) -> int:
    """Return a descriptor of the project's marker with a shared lock, the marker written where it is new.

    Raises:
        OSError: It cannot be made, or the directory is being pruned at this moment.
    """
    path = os.path.join(home, MARKER)
    for _ in range(_TRIES):
        marker = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(marker, fcntl.LOCK_SH | fcntl.LOCK_NB)
            status = os.fstat(marker)
            if status.st_nlink:
                if not status.st_size:
                    _describe(marker, cwd, installed)
                os.utime(marker)  # the last use, for `cache list` and `cache prune`
                return marker
        except BlockingIOError:
            os.close(marker)
            raise OSError(0, f"{home} is being pruned at this moment") from None
        except OSError:
            os.close(marker)
            raise
        os.close(marker)  # pruned between our two steps: make it anew
        os.makedirs(home, mode=0o700, exist_ok=True)
    raise OSError(0, f"{home} is being pruned again and again")


def _describe(marker: int, cwd: str, installed: Mapping[str, str]) -> None:
    import json  # noqa: PLC0415 - 3 ms, once in a project's life

    text = json.dumps({"schema": "unsloth-watch/project-cache/1", "project": cwd, "versions": dict(installed)}, indent=2)
    os.write(marker, text.encode("utf-8", "backslashreplace") + b"\n")


def _make_private(path: str) -> None:
    """Make a directory and what is missing above it with mode 0700: what lies in a compile cache is executed."""
    mask = os.umask(0o077)  # not makedirs' mode: that counts for the last directory only
    try:
        os.makedirs(path, exist_ok=True)
    finally:
        os.umask(mask)


def is_network(path: str) -> bool:
    """Whether the nearest existing directory of a path lies on a file system that asks another machine; False if unknown."""
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    real, longest, kind = os.path.realpath(path), -1, ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                left, _, right = line.partition(" - ")
                point = left.split(" ")[4].replace("\\040", " ")
                # Of equals the last one covers the others.
                if len(point) >= longest and (point in ("/", real) or real.startswith(point + "/")):
                    longest, kind = len(point), right.split(" ")[0]
    except (OSError, IndexError):
        return False
    return kind.startswith(_NETWORK)
