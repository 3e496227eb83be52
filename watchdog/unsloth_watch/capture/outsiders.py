"""Who outside the job holds an end of what its threads wait on: one look at the descriptors of everybody else on the machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from unsloth_watch.capture.deadline import Deadline
from unsloth_watch.capture.descriptors import read_open_file
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import Evidence, Outsider
from unsloth_watch.waits.scene import Doubt, Scene
from unsloth_watch.waits.trace import trace
from unsloth_watch.waits.wait import Class

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags of ``stat``
_SHARED_DIRECTORY = "/dev/shm/"  # noqa: S108 - read, never written
_OWN_NAMES = ("sem.mp-", "sem.loky-", "torch_")
# Shared memory that has a name, but one which Python and torch drew at random: nobody else knows it. Those of
# multiprocessing.shared_memory (``psm_``) are random too, but made to be told to others.
_NAMELESS = ("/dev/zero", "/memfd:")
# Anonymous shared memory, and memory that only whoever gets its descriptor can map.
_AIO = "/[aio]"
# The ring of io_setup(2), in the maps of whoever may have asked for I/O of which an eventfd tells the end (IOCB_FLAG_RESFD).


def ask_outsiders(survey: Evidence, deadline: Deadline) -> Evidence:
    """Return the survey with who outside the job holds the other ends; unchanged where something else stands against a proof."""
    argument = trace(Scene(survey, is_gpu_idle=True, is_strict=True))
    if isinstance(argument, Doubt) or not argument.asked:
        return survey
    outsiders, unseen = find_outsiders(argument.asked, {process.ref.pid for process in survey.processes}, deadline)
    return msgspec.structs.replace(survey, outsiders=outsiders, unseen=unseen)


def name_outsiders(evidence: Evidence, deadline: Deadline) -> Evidence:
    """Return the evidence with who outside the job holds the other ends of whatever its threads wait on, for a diagnosis."""
    waits = Scene(evidence, is_gpu_idle=True).waits.values()
    asked = {target for wait in waits if wait.kind in (Class.CHANNEL, Class.LOCK) for target in wait.targets}
    outsiders, unseen = find_outsiders(asked, {process.ref.pid for process in evidence.processes}, deadline)
    return msgspec.structs.replace(evidence, outsiders=outsiders, unseen=unseen)


def find_outsiders(asked: Collection[str], members: Collection[int], deadline: Deadline) -> tuple[tuple[Outsider, ...], int]:
    """Return who else holds what is asked about, and how many processes could not be asked.

    It reads the links of all open descriptors: about 20 ms of CPU for 300 processes. Maps are read only for shared memory.

    Args:
        asked: ``pipe:[n]``, ``socket:[n]``, ``eventfd 7``, paths of locked files, ``device:inode`` of shared memory.
        members: The job's processes.
        deadline: Whoever has not been asked by then counts as one that could not be.
    """
    links = {target for target in asked if target.startswith(("pipe:", "socket:", "eventfd ", "/"))}
    memory = set(asked) - links
    found = list(_find_named(memory, members))
    if any(target.startswith("eventfd ") for target in links) and any(map(_has_aio, members)):
        # Which of them the kernel will write to is not to be seen.
        found += (Outsider(target, 0) for target in links if target.startswith("eventfd "))
    unseen = 0
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in members:
            continue
        pid = int(name)
        try:
            if deadline.is_over:
                unseen += 1
                continue
            found += _list_held(pid, links) if links else ()
            found += (Outsider(place, pid) for place, _ in _list_mapped(pid) if place in memory) if memory else ()
        except FileNotFoundError:
            continue  # it has ended
        except ProcessLookupError:
            continue
        except OSError:
            unseen += not _is_kernel_thread(pid)
    return tuple(dict.fromkeys(found)), unseen


def _list_held(pid: int, wanted: Collection[str]) -> Iterator[Outsider]:
    """Yield the wanted things among a process's descriptors.

    Raises:
        OSError: Its descriptors may not be listed.
    """
    has_eventfd = any(target.startswith("eventfd ") for target in wanted)
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        is_eventfd = has_eventfd and target == "anon_inode:[eventfd]"
        if target not in wanted and not is_eventfd:
            continue
        file = read_open_file(pid, int(number))
        if file is None or (target.startswith("/") and not file.locks):
            continue
        held = file.object if is_eventfd else target
        if held in wanted and held is not None:
            yield Outsider(held, pid, None if file.flags is None else file.flags & os.O_ACCMODE)


def _list_mapped(pid: int) -> Iterator[tuple[str, str]]:
    """Yield ``device:inode`` and path of a process's shared mappings.

    Raises:
        OSError: Its maps may not be read.
    """
    for line in decode(read_file(f"/proc/{pid}/maps")).splitlines():
        fields = line.split(None, 5)
        if len(fields) >= 5 and fields[1].endswith("s"):
            yield f"{fields[3]}:{fields[4]}", fields[5] if len(fields) > 5 else ""


def _has_aio(pid: int) -> bool:
    """Whether a process may have asynchronous I/O under way; False for one that has ended, or whose maps may not be read.

    What may not be read of a member spoils the proof already.
    """
    try:
        return any(path.startswith(_AIO) for _, path in _list_mapped(pid))
    except OSError:
        return False


def _find_named(memory: Collection[str], members: Collection[int]) -> Iterator[Outsider]:
    """Yield shared memory that anybody may open by its name, as held by PID 0: somebody unknown."""
    names = _list_names() if memory else {}
    for pid in members if memory else ():
        try:
            for place, path in _list_mapped(pid):
                if place in memory and _is_reachable(place, path, names):
                    yield Outsider(place, 0)
        except OSError:  # it has ended, or is another user's: then it could not be read itself, which spoils the proof already
            continue


def _is_reachable(place: str, path: str, names: Mapping[str, Sequence[str]] | None) -> bool:
    """Whether somebody who has not mapped some memory yet could come to do so.

    The path in ``maps`` does not tell: sem_open(3) makes its file under a passing name, which is shown as deleted ever after, and
    links it to the real one.
    """
    if path.startswith(_NAMELESS):
        return False
    if not path.startswith(_SHARED_DIRECTORY) or names is None or place.rpartition(":")[0] not in names:
        return True
    return any(not name.startswith(_OWN_NAMES) for name in names.get(place, ()))


def _list_names() -> Mapping[str, Sequence[str]] | None:
    """Return the names in the directory of shared memory by ``device:inode``, and its ``device``; None where it cannot be read."""
    try:
        device = os.stat(_SHARED_DIRECTORY).st_dev
        prefix = f"{os.major(device):02x}:{os.minor(device):02x}"
        found: dict[str, list[str]] = {prefix: []}
        with os.scandir(_SHARED_DIRECTORY) as entries:
            for entry in entries:
                found.setdefault(f"{prefix}:{entry.inode()}", []).append(entry.name)
    except OSError:
        return None
    return found


def _is_kernel_thread(pid: int) -> bool:
    try:
        flags = int(read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()[6])
    except (OSError, IndexError, ValueError):
        return False
    return bool(flags & _KERNEL_THREAD)
