"""From the command's main thread to everybody who could wake it: nobody of them must be able to go on, or there is no proof."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.waits.ends import find_wakers, tell_wait
from unsloth_watch.waits.loops import Loop
from unsloth_watch.waits.scene import (
    AT_REST,
    KERNEL_OBJECTS,
    Doubt,
    Key,
    Scene,
    has_ended,
    has_gpu,
    is_harmless,
    is_helper,
)
from unsloth_watch.waits.wait import Class, identify

_SIGINT, _SIGQUIT, _SIGILL, _SIGTRAP, _SIGABRT, _SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE = 2, 3, 4, 5, 6, 7, 8, 11, 13
_SIGTERM, _SIGCHLD, _SIGTSTP, _SIGTTIN, _SIGTTOU, _SIGXCPU, _SIGXFSZ, _SIGWINCH, _SIGSYS = 15, 17, 20, 21, 22, 24, 25, 28, 31
_SIGCANCEL, _SIGSETXID = 32, 33  # of glibc itself
_HARMLESS_HANDLERS = (
    # Asked to end, which is no progress; faults, which only its own running code has; its terminal; glibc's own. SIGCHLD comes from
    # children, who are traced like all who can wake.
    *(_SIGINT, _SIGQUIT, _SIGTERM, _SIGILL, _SIGTRAP, _SIGABRT, _SIGBUS, _SIGFPE, _SIGSEGV, _SIGPIPE, _SIGSYS, _SIGXCPU, _SIGXFSZ),
    *(_SIGTSTP, _SIGTTIN, _SIGTTOU, _SIGWINCH, _SIGCHLD, _SIGCANCEL, _SIGSETXID),
)
_HARMLESS = sum(1 << number - 1 for number in _HARMLESS_HANDLERS)


class Step(msgspec.Struct, frozen=True):
    """One step of the argument.

    Attributes:
        key: The thread that it is about.
        why: How it waits.
        is_monitor: Whether it is left out because it never wakes anybody.
        is_pulse: Whether it is left out because its own source shows that all it does is to sleep and to tell.
    """

    key: Key
    why: str
    is_monitor: bool = False
    is_pulse: bool = False


class Trace(msgspec.Struct, frozen=True):
    """Everybody who could wake the main thread, and none of whom can go on as things stand.

    Attributes:
        steps: In the order in which they were found, the main thread first.
        loops: Threads in known loops that wake by the clock and go back.
        clocked: Threads of other processes that wake by the clock; they must be seen to go back to where they were.
        is_stopped: Whether the argument rests on a process that was stopped by a signal.
        asked: Of what nobody outside the job may hold an end: ``pipe:[n]``, ``socket:[n]``, ``eventfd 7``, the path of a locked
            file, ``device:inode`` of shared memory.
    """

    steps: tuple[Step, ...]
    loops: tuple[Key, ...] = ()
    clocked: tuple[Key, ...] = ()
    is_stopped: bool = False
    asked: tuple[str, ...] = ()


def trace(scene: Scene) -> Trace | Doubt:
    """Return the argument of one survey; it is a proof only where a second one finds nothing changed."""
    survey = scene.survey
    if survey.refuted:
        return Doubt(survey.refuted)
    root = scene.processes.get(survey.root.pid) if survey.root is not None else None
    if root is None or root.ref != survey.root or not root.threads:
        return Doubt("the command itself could not be read")
    if survey.missing:
        return Doubt(f"not everybody could be read: {survey.missing[0]}")
    steps = _follow((root.ref.pid, root.threads[0].tid), scene)
    if isinstance(steps, Doubt):
        return steps
    seen = dict.fromkeys(step.key for step in steps)
    doubts = (_doubt_process(scene.processes[pid], scene) for pid in dict.fromkeys(pid for pid, _ in seen))
    clocked = next((doubt for doubt in doubts if doubt is not None), None) or _find_clocked(seen, scene)
    if isinstance(clocked, Doubt):
        return clocked
    return Trace(
        tuple(steps),
        loops=tuple(key for key in seen if scene.waits[key].loop in (Loop.POLL, Loop.WORKER, Loop.CHILDREN)),
        clocked=clocked,
        is_stopped=any(scene.waits[key].kind is Class.STOPPED for key in seen),
        asked=tuple(scene.asked),
    )


def _follow(start: Key, scene: Scene) -> list[Step] | Doubt:
    """Return a step for everybody who could wake the first, directly or through others."""
    steps: list[Step] = []
    seen = {start: None}
    queue = [start]  # grows while it is worked through
    spread: set[int] = set()  # processes all of whose threads are in it: each thread of a pool would name all the others again
    heard: set[Key] = set()  # threads of processes whose print goes where somebody of the job waits
    for key in queue:
        if key != start and is_harmless(key, scene):
            steps.append(Step(key, f"{_name(key, scene)} only looks after something", is_monitor=True))
            continue
        if scene.threads[key].is_pulse and scene.waits[key].kind is Class.TIMED:
            steps.append(Step(key, f"{_name(key, scene)} only sleeps and tells, for ever, as its source says", is_pulse=True))
            # Whoever could tell it to end is a thread of its process, and a process comes into the argument with all its threads.
            continue
        is_private = scene.waits[key].kind is Class.MEMORY and not scene.waits[key].memory
        is_told = is_private and key[0] in spread
        found = (tell_wait(key, scene), []) if is_told else find_wakers(key, scene)
        if isinstance(found, Doubt):
            return found
        if is_private:
            spread.add(key[0])
        steps.append(Step(key, found[0] if is_told else f"{found[0]}; {_tell_wakers(key, found[1])}"))
        if scene.waits[key].kind is Class.CHANNEL:
            heard.update(waker for waker in found[1] if _prints_into(waker[0], scene.waits[key].targets, scene))
        fresh = [waker for waker in dict.fromkeys((*found[1], *_signallers(key[0], scene))) if waker not in seen]
        seen.update(dict.fromkeys(fresh))
        queue += fresh
    printer = next((step for step in steps if step.is_pulse and step.key in heard), None)
    return steps if printer is None else Doubt(f"{_name(printer.key, scene)} may print what somebody waits for")


def _tell_wakers(key: Key, wakers: list[Key]) -> str:
    """Return who could end a wait, as a phrase."""
    pids = sorted({pid for pid, _ in wakers} - {key[0]})
    who = ["other threads of its process"] if any(pid == key[0] for pid, _ in wakers) else []
    if pids:
        shown = ", ".join(map(str, pids[:5])) + (f" and {len(pids) - 5} more" if len(pids) > 5 else "")
        who.append(f"PID {shown}")
    return f"only {' or '.join(who)} could end that" if who else "nobody could end that"


def _name(key: Key, scene: Scene) -> str:
    thread = scene.threads[key]
    return f"PID {key[0]} thread {thread.name}" + (f", in {thread.frames[0]}," if thread.frames else "")


def _prints_into(pid: int, targets: tuple[str, ...], scene: Scene) -> bool:
    """Whether what a process prints goes where somebody of the job waits."""
    descriptors = scene.processes[pid].descriptors or ()
    return any(descriptor.fd in (1, 2) and identify(descriptor) in targets for descriptor in descriptors)


def _signallers(pid: int, scene: Scene) -> list[Key]:
    """Return the threads of the children of a process that handles SIGCHLD: their ends and stops wake it."""
    caught = scene.processes[pid].signals_caught or 0
    if not caught >> _SIGCHLD - 1 & 1:
        return []
    living = [process.ref.pid for process in scene.children_of(pid) if not has_ended(process)]
    return [key for child in living for key in scene.threads_of(child)]


def _doubt_process(process: ProcessEvidence, scene: Scene) -> Doubt | None:  # noqa: PLR0911 - one return a reason reads best
    """Return what about a whole process spoils a proof."""
    pid = process.ref.pid
    if process.missing or process.descriptors is None:
        return Doubt(f"PID {pid} could not be read completely: {'; '.join(process.missing) or 'its descriptors'}")
    if process.tracer_pid:
        return Doubt(f"PID {pid} is traced by PID {process.tracer_pid}")
    if process.signals_caught is None:
        return Doubt(f"PID {pid}: which signals it handles could not be read")
    handled = process.signals_caught & ~_HARMLESS
    if handled:
        numbers = ", ".join(str(bit + 1) for bit in range(handled.bit_length()) if handled >> bit & 1)
        return Doubt(f"PID {pid} handles a signal that a timer or somebody outside may send ({numbers})")
    if process.has_timers is not False:
        return Doubt(f"PID {pid} has timers armed" if process.has_timers else f"PID {pid}: its timers could not be read")
    targets = [descriptor.target for descriptor in process.descriptors]
    for kind in KERNEL_OBJECTS:
        if any(kind in target for target in targets):
            return Doubt(f"PID {pid} uses {kind}, by which the kernel itself may wake it")
    if has_gpu(process) and not scene.is_gpu_idle:
        return Doubt(f"PID {pid} uses a GPU that is not known to be idle")
    return None


def _find_clocked(seen: dict[Key, None], scene: Scene) -> tuple[Key, ...] | Doubt:
    """Return the other threads that wake by the clock; a Doubt where one may do anything.

    They share nothing with those who wait, but whoever lives may send a signal: a shell that sleeps and then kills is a timeout of
    the job's own, and so is a process that looks at its clock twice a second until the time is up. SIGKILL asks for no handler, and
    the end of somebody else than the command is what the command may wait for. So one who goes on by the clock is left out only
    where its own source says that it sleeps and tells for ever, or where a signal could do no more than end the command. One who
    listens to somebody outside counts where a signal could continue or call upon anybody.
    """
    others = [
        key
        for key in scene.waits
        if key not in seen
        and not (has_ended(scene.processes[key[0]]) or is_harmless(key, scene) or is_helper(scene.processes[key[0]]))
    ]
    clocked = []
    for key in others:
        wait = scene.waits[key]
        if wait.kind in AT_REST:
            continue
        if wait.kind is not Class.TIMED or not scene.threads[key].frames:
            return Doubt(f"PID {key[0]} thread {scene.threads[key].name}, of the same job: {wait.why}")
        clocked.append(key)
    is_stopped = any(scene.waits[key].kind is Class.STOPPED for key in seen)
    is_endable = any((scene.processes[pid].signals_caught or 0) >> _SIGTERM - 1 & 1 for pid, _ in seen)
    is_awaited = any(scene.survey.root is not None and pid != scene.survey.root.pid for pid, _ in seen)
    # ``except KeyboardInterrupt`` cannot be told from Python's own handler, and may be how the job is meant to end.
    is_interruptible = any((scene.processes[pid].signals_caught or 0) >> _SIGINT - 1 & 1 for pid, _ in seen)
    may_signal = [key for key in clocked if is_stopped or is_endable or not scene.threads[key].is_pulse]
    may_signal += (key for key in others if _has_clock(key, scene))
    if is_stopped or is_endable:
        channels = (key for key in others if scene.waits[key].kind is Class.CHANNEL)
        may_signal += (key for key in channels if isinstance(find_wakers(key, scene), Doubt))
    if may_signal and (is_stopped or is_endable or is_awaited or is_interruptible):
        return Doubt(f"{_name(may_signal[0], scene)} lives, and may send the signal that ends or continues somebody")
    return tuple(clocked)


def _has_clock(key: Key, scene: Scene) -> bool:
    """Whether a thread that rests may be called by a clock: a timerfd, or a timer or alarm with a handler of its process."""
    process = scene.processes[key[0]]
    handled = (process.signals_caught or 0) & ~_HARMLESS
    return bool(handled) or process.has_timers is True or any("timerfd" in target for target in scene.waits[key].targets)
