"""Who could end a wait: by its class, everybody who holds what it needs, or the reason why that cannot be known."""

from __future__ import annotations

from unsloth_watch.model.evidence import Connection
from unsloth_watch.waits.loops import POLLING, Loop
from unsloth_watch.waits.manager import is_private_manager
from unsloth_watch.waits.scene import AT_REST, Doubt, Key, Scene, has_ended, is_harmless
from unsloth_watch.waits.wait import Class, Wait

_READS_AND_WRITES = 2
TERMINALS = ("/dev/tty", "/dev/pts/", "/dev/console", "/dev/hvc")
"""Beginnings of the paths of terminals."""
_READS = frozenset({"read", "readv", "pread64", "preadv"})


def find_wakers(key: Key, scene: Scene) -> tuple[str, list[Key]] | Doubt:  # noqa: PLR0911 - one return a class reads best
    """Return how a thread waits, as a phrase, and all who could wake it; a Doubt where that is not known or not of the job."""
    thread, wait = scene.threads[key], scene.waits[key]
    step = tell_wait(key, scene)
    if wait.loop is Loop.CHILDREN:
        step = f"{step} (a loop that looks after its children)"
        return _children(key, 0, step, scene)
    if wait.kind is Class.STOPPED:
        return _stopped(key, step, scene)
    if wait.loop is Loop.SERVER and (thread.call or "").startswith("accept") and _is_private(key[0], scene):
        step = f"{step}, which only the job knows the way to"
        return step, [other for other in scene.threads if other != key and not has_ended(scene.processes[other[0]])]
    if wait.kind is Class.INTERPRETER:
        return _interpreter_holder(key, step, scene)
    if wait.kind is Class.MEMORY or (wait.loop in POLLING and thread.call == "futex"):
        return _sharers(key, step, wait, scene)
    if wait.kind is Class.CHILD:
        return _children(key, wait.child, step, scene)
    if wait.kind is Class.LOCK:
        return _lock_holders(key, step, wait, scene)
    if wait.kind is Class.CHANNEL or wait.loop in POLLING:
        return _channel_holders(key, step, wait, scene)
    return Doubt(f"PID {key[0]} thread {thread.name}: {wait.why}")


def tell_wait(key: Key, scene: Scene) -> str:
    """Return who waits, for what, and where, as a phrase."""
    thread = scene.threads[key]
    return f"PID {key[0]} thread {thread.name}: {scene.waits[key].why}" + (f", in {thread.frames[0]}" if thread.frames else "")


def _sharers(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return who shares the memory of a futex: the process's other threads, and every process of the job if it is not private."""
    if not wait.memory:
        # Private, or shared by its flag but in memory that no other process maps: the kernel keys both by the address space.
        return step, [other for other in scene.threads_of(key[0]) if other != key]
    place = wait.memory.rpartition(":")[0]
    doubt = _doubt_outsiders(place, step, scene)
    if doubt is not None:
        return doubt
    return step, [other for other in scene.threads if other != key and not has_ended(scene.processes[other[0]])]


def _is_private(pid: int, scene: Scene) -> bool:
    main = scene.processes[pid].main_thread
    return main is not None and is_private_manager(main)


def _interpreter_holder(key: Key, step: str, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return the other threads of the process, where the one that holds the interpreter lock is seen, and rests with it."""
    holder = find_interpreter_holder(key[0], scene)
    if holder is None:
        return Doubt(f"{step}: who holds it was not seen")
    if scene.waits[holder].kind not in AT_REST or is_harmless(holder, scene):
        return Doubt(f"{step}: thread {scene.threads[holder].name} holds it, and may go on")
    return step, [other for other in scene.threads_of(key[0]) if other != key]


def find_interpreter_holder(pid: int, scene: Scene) -> Key | None:
    """Return the thread of a process that holds the interpreter lock; None where none was seen to, or several were."""
    holders = [key for key in scene.threads_of(pid) if scene.threads[key].has_gil]
    return holders[0] if len(holders) == 1 else None


def _children(key: Key, child: int, step: str, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return the threads of the children whose end is awaited; of any child, also who could make another one."""
    children = [process for process in scene.children_of(key[0]) if child in (0, process.ref.pid)]
    living = [process for process in children if not has_ended(process)]
    if scene.is_strict and not children:
        return Doubt(f"{step}: the child that it waits for was not seen")
    if scene.is_strict and len(living) < len(children):
        return Doubt(f"{step}: a child has ended, which it may be about to notice")
    found = [other for one in children for other in scene.threads_of(one.ref.pid)]
    return step, found if child else [*found, *(other for other in scene.threads_of(key[0]) if other != key)]


def _stopped(key: Key, step: str, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    process = scene.processes[key[0]]
    if process.is_background is not None:
        return Doubt(f"{step}, and it has a terminal, from which somebody may continue it")
    if any(thread.state != "T" for thread in process.threads):
        return Doubt(f"{step}, but not all of its threads stand")
    return f"{step}, and it has no terminal from which somebody would continue it", []


def _lock_holders(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return who holds a file lock; everybody of the job who has that file open may share the holder's descriptor."""
    locks = [lock for lock in scene.survey.locks if lock.path is not None and lock.path in wait.targets]
    held = [lock for lock in locks if not lock.is_waiter]
    if not held or (scene.is_strict and not any(lock.is_waiter and lock.pid == key[0] for lock in locks)):
        return Doubt(f"{step}: who holds that lock is not known")
    for lock in held:
        if not lock.is_inside:
            return Doubt(f"{step}: PID {lock.pid}, which is not of the job, holds that lock")
        doubt = _doubt_outsiders(lock.path or "", step, scene)
        if doubt is not None:
            return doubt
    pids = {lock.pid for lock in held} | {pid for lock in held for pid in scene.holders.get(lock.path or "", {})}
    return step, [other for pid in sorted(pids) for other in scene.threads_of(pid) if other != key]


def _channel_holders(key: Key, step: str, wait: Wait, scene: Scene) -> tuple[str, list[Key]] | Doubt:
    """Return all threads of all processes that hold another end of what a thread waits on."""
    if not wait.targets:
        return Doubt(f"{step}: what it waits on could not be read")
    found: dict[Key, None] = {}
    if (scene.threads[key].call or "").startswith("epoll"):
        # Another thread may add a descriptor to the set.
        found.update(dict.fromkeys(other for other in scene.threads_of(key[0]) if other != key))
    for target in wait.targets:
        ends = _find_ends(key, target, step, wait, scene)
        if isinstance(ends, Doubt):
            return ends
        for pid in sorted(ends):
            found.update(dict.fromkeys(other for other in scene.threads_of(pid) if other != key))
    return step, list(found)


def _find_ends(  # noqa: PLR0911 - one return a kind of descriptor reads best
    key: Key, target: str, step: str, wait: Wait, scene: Scene
) -> set[int] | Doubt:
    """Return the processes that can end the wait for one descriptor; a Doubt where somebody else can, or nobody knows."""
    if target.startswith("pipe:["):
        wanted = _other_mode(key, target, wait, scene)
        doubt = _doubt_outsiders(target, step, scene, wanted)
        if doubt is not None:
            return doubt
        holders = scene.holders.get(target, {})
        ends = {pid for pid, modes in holders.items() if wanted is None or modes & {None, wanted, _READS_AND_WRITES}}
        if scene.is_strict and not ends:
            # Without any other end it would be at its end and nobody would wait.
            why = f"who holds the other end of {target} is not to be seen, perhaps in another container"
            return Doubt(f"{step}: {why}", is_outside=True)
        return ends
    if target.startswith("eventfd "):
        doubt = _doubt_outsiders(target, step, scene)
        return set(scene.holders.get(target, {})) if doubt is None else doubt
    if target.startswith("pidfd "):
        pid = int(target[6:]) if target[6:].isdecimal() else 0
        process = scene.processes.get(pid)
        if process is None or has_ended(process):
            return Doubt(f"{step}: the process behind {target} is not of the job, or has ended")
        return {pid}
    if target.startswith("socket:["):
        return _find_socket_ends(key, target, step, scene)
    # A terminal asks somebody at once, and nobody else is to be expected.
    is_terminal = target.startswith(TERMINALS)
    return Doubt(f"{step}: somebody outside the job can answer on {target}", is_outside=not is_terminal)


def _other_mode(key: Key, target: str, wait: Wait, scene: Scene) -> int | None:
    """Return the access mode of the pipe's other end: who may only read cannot write, and the other way round; None for either."""
    if wait.is_write or scene.threads[key].call in _READS:
        return 0 if wait.is_write else 1
    own = scene.holders.get(target, {}).get(key[0], set())
    return 1 if own == {0} else 0 if own == {1} else None


def _find_socket_ends(key: Key, target: str, step: str, scene: Scene) -> set[int] | Doubt:
    """Return who holds either end of a connection whose both ends are in the job."""
    connection = next((d.connection for d in scene.processes[key[0]].descriptors or () if d.target == target), None)
    if connection is None or connection.state != "ESTABLISHED" or connection.kind.startswith("udp"):
        return Doubt(f"{step}: somebody outside the job can answer on {connection or target}")
    there = find_peer(connection, scene)
    if there is None:
        return Doubt(f"{step}: the other end of {connection} is not in the job")
    ends: set[int] = set()
    for one in (target, there):
        doubt = _doubt_outsiders(one, step, scene)
        if doubt is not None:
            return doubt
        ends.update(scene.holders.get(one, {}))
    return ends


def find_peer(connection: Connection, scene: Scene) -> str | None:
    """Return ``socket:[n]`` of a connection's other end, where somebody of the job has it open; None for all else."""
    if connection.kind == "unix":
        return connection.remote if connection.remote in scene.holders else None
    if connection.listener is not None:
        # Nobody has accepted it yet: only who holds the listening socket can.
        return connection.listener if connection.listener in scene.holders else None
    wanted = (_plain(connection.remote), _plain(connection.local))
    for process in scene.survey.processes:
        for descriptor in process.descriptors or ():
            other = descriptor.connection
            if other is not None and other.kind.startswith("tcp") and (_plain(other.local), _plain(other.remote)) == wanted:
                return descriptor.target
    return None


def _plain(address: str) -> str:
    """Return an address in one spelling: a socket of version 6 shows IPv4 as ``[::ffff:127.0.0.1]``."""
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]').removeprefix('::ffff:')}:{port}"


def _doubt_outsiders(target: str, step: str, scene: Scene, wanted: int | None = None) -> Doubt | None:
    """Return why somebody outside the job may hold an end; None where nobody can.

    Args:
        target: What is waited on.
        step: How it is waited for.
        scene: The survey.
        wanted: Access mode that the other end would need; None for any.
    """
    survey = scene.survey
    scene.asked[target] = None
    if target in survey.outside:
        return Doubt(f"{step}: somebody outside the job can answer on {target}", is_outside=True)
    for outsider in survey.outsiders:
        if outsider.target == target and (wanted is None or outsider.mode in (None, wanted, _READS_AND_WRITES)):
            unknown = "the kernel may write to it" if target.startswith("eventfd ") else "it can be opened by name"
            who = f"PID {outsider.pid}, which is not of the job, holds {target} too" if outsider.pid else unknown
            return Doubt(f"{step}: {who}", is_outside=True)
    if scene.is_strict and survey.unseen and not survey.is_sealed:
        return Doubt(f"{step}: {survey.unseen} processes outside the job cannot be asked whether they hold {target}")
    return None
