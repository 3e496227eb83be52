"""What a capture found out about a job that is suspected or hung: the input of a diagnosis."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.process import ProcessRef


class Frame(msgspec.Struct, frozen=True):
    """One stack frame.

    Attributes:
        function: Function's name, or the symbol of a native frame.
        file: Full path of the source file; the library of a native frame.
        line: Line number, 0 where unknown (native).
        is_native: Whether it is a frame of native code.
        locals: Names and printed values, only where the user asked for them.
    """

    function: str
    file: str
    line: int
    is_native: bool = False
    locals: dict[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})" if self.line else f"{self.function} ({self.file})"


class ThreadEvidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thread, with or without a Python stack.

    Attributes:
        tid: Kernel thread id.
        name: Python's name of the thread, else the kernel's.
        is_main: Whether it is the main thread.
        frames: Innermost first; empty where no stack could be had.
        has_gil: Whether it holds the interpreter lock; None if unknown.
        state: Kernel state letter.
        syscall: System call number; -1 when not in a call; None if unreadable or running.
        syscall_args: Six raw arguments.
        wait_channel: Kernel function it sleeps in; empty when running, None if unreadable.
        cpu_s: CPU seconds used.
        vctx: Voluntary context switches.
        call: Name of the system call; None when in none, or when it is none of those that matter for waits.
        wait: What it waits for, as a phrase for people (``reads from fd 0 → pipe:[12] (standard input)``); None when unknown.
        wait_fds: Descriptors that the call waits on, those of poll, select and epoll included.
    """

    tid: int
    name: str
    is_main: bool
    frames: tuple[Frame, ...] = ()
    has_gil: bool | None = None
    state: str | None = None
    syscall: int | None = None
    syscall_args: tuple[int, ...] = ()
    wait_channel: str | None = None
    cpu_s: float | None = None
    vctx: int | None = None
    call: str | None = None
    wait: str | None = None
    wait_fds: tuple[int, ...] = ()


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True):
    """An open descriptor.

    Attributes:
        fd: Number.
        target: Path, ``pipe:[n]``, ``socket:[n]`` or ``anon_inode:…``.
        offset: Position; None if unreadable.
        flags: Flags of ``open(2)``; None if unreadable.
        peer: Both ends and the state of a TCP socket (``tcp 10.0.0.1:4000 → 10.0.0.2:443 ESTABLISHED``); None for all else.
    """

    fd: int
    target: str
    offset: int | None = None
    flags: int | None = None
    peer: str | None = None


class FileLock(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of ``/proc/locks``, joined to a path.

    Attributes:
        kind: FLOCK, POSIX or OFDLCK.
        mode: READ or WRITE.
        pid: Holder or waiter; -1 where the kernel hides it.
        path: Path where it is known to somebody of the job, else None.
        device: Device as ``major:minor`` in hexadecimal, as the kernel prints it.
        inode: Inode number.
        is_waiter: True for a blocked request (``->``).
        holder_command: Command line of the holder, redacted later; None if unreadable.
        is_inside: Whether that process belongs to the job.
    """

    kind: str
    mode: str
    pid: int
    device: str
    inode: int
    path: str | None = None
    is_waiter: bool = False
    holder_command: str | None = None
    is_inside: bool = False


class ProcessEvidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that was read about one process.

    Attributes:
        ref: Identity.
        ppid: Parent's PID.
        command: Argument vector; None if unreadable.
        executable: Path of the running program; None if unreadable.
        cwd: Working directory; None if unreadable.
        environment: Environment at exec; None if unreadable.
        state: State letter of the main thread.
        uid: Effective user id.
        tracer_pid: Process that traces it, 0 for none.
        threads: Threads, main first.
        descriptors: Open descriptors; None if unreadable.
        python_version: As py-spy or the executable says; None if it is no Python or unknown.
        stack_method: Which rung of the ladder answered: ``native``, ``plain``, ``nonblocking``; None if none did.
        missing: What could not be had and why, one phrase each.
        notes: What is worth knowing and is no fault: not a Python process, a zombie, why the nonblocking rung was taken.
        signals_caught: Mask of the signals that it has handlers for (bit n-1 for signal n); None if unreadable.
        has_timers: Whether it has POSIX timers armed or not; None if unreadable.
    """

    ref: ProcessRef
    ppid: int
    command: tuple[str, ...] | None = None
    executable: str | None = None
    cwd: str | None = None
    environment: dict[str, str] | None = None
    state: str = "?"
    uid: int | None = None
    tracer_pid: int = 0
    threads: tuple[ThreadEvidence, ...] = ()
    descriptors: tuple[Descriptor, ...] | None = None
    python_version: str | None = None
    stack_method: str | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    signals_caught: int | None = None
    has_timers: bool | None = None

    @property
    def main_thread(self) -> ThreadEvidence | None:
        """The main thread, if it was seen."""
        return next((thread for thread in self.threads if thread.is_main), None)


class LockFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file whose existence is a lock, whoever made it.

    Attributes:
        path: Path.
        age_s: Seconds since its last change.
        openers: PIDs that have it open; None where not every process could be asked.
        owner: PID that it names in its text; None if it names none.
        is_owner_alive: Whether a process of that PID lives on this host; None if it names none, or one of another host.
    """

    path: str
    age_s: float
    openers: tuple[int, ...] | None = None
    owner: int | None = None
    is_owner_alive: bool | None = None


class CacheProbe(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one cache as this job uses it.

    Attributes:
        cache: Id in the registry: ``unsloth-compiled``, ``inductor``, ``triton``, …
        path: Absolute place, from the job's own environment and directory.
        origin: Where the place comes from: a variable's name or ``default``.
        exists: Whether anything is there.
        is_directory: Whether it is a directory.
        is_writable: Result of a real write probe; None if it was not tried.
        is_importable: Whether the job's own import path finds it as a package; None if it does not apply.
        import_path: The job's import path as far as it matters, in order.
        free_bytes: Free space of its file system for this user.
        free_inodes: Free inodes.
        filesystem: Type of its file system.
        lock_holders: Locks under it that somebody holds.
        files: Number of files directly in it.
        problems: What is wrong with it, one phrase each; empty for a healthy one.
        shadowed_by: Package of the same name that the import path finds before it; None if there is none or it does not apply.
        lock_files: Lock files below it whose mere existence is the lock (``FileBaton``, soft locks).
    """

    cache: str
    path: str
    origin: str
    exists: bool
    is_directory: bool = False
    is_writable: bool | None = None
    is_importable: bool | None = None
    import_path: tuple[str, ...] = ()
    free_bytes: int | None = None
    free_inodes: int | None = None
    filesystem: str | None = None
    lock_holders: tuple[FileLock, ...] = ()
    files: int | None = None
    problems: tuple[str, ...] = ()
    shadowed_by: str | None = None
    lock_files: tuple[LockFile, ...] = ()


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole capture.

    Attributes:
        at: Monotonic seconds at its start.
        seconds: How long it took.
        processes: The job's processes, the root first, then by PID.
        root: Identity of the command itself.
        locks: Lines of ``/proc/locks`` that concern the job.
        caches: Probed caches.
        versions: Installed versions by distribution name, as found beside the job's own interpreter or frames.
        host: Facts about the machine: kernel, memory, load, driver.
        kernel_log: Kernel messages about the job, newest last.
        missing: What could not be had and why.
        outside: Pipes and sockets (``pipe:[n]``) that the supervisor holds too: something outside the job can speak through them.
    """

    at: float
    seconds: float
    processes: tuple[ProcessEvidence, ...]
    root: ProcessRef | None = None
    locks: tuple[FileLock, ...] = ()
    caches: tuple[CacheProbe, ...] = ()
    versions: dict[str, str] = {}
    host: dict[str, str] = {}
    kernel_log: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing, of the whole and of every process."""
        return not self.missing and not any(process.missing for process in self.processes)
