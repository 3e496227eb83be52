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


class SourceLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the source says at one frame of a stack.

    Attributes:
        depth: Place of the frame in the stack, 0 for the innermost.
        text: The line, stripped, at most 120 characters.
        holds: Expressions of the ``with`` blocks that surround the line, and of ``.acquire()`` calls before it without a release.
    """

    depth: int
    text: str
    holds: tuple[str, ...] = ()


class SourceLoop(msgspec.Struct, frozen=True, omit_defaults=True):
    """A loop of the program's text around the line that a frame stands on.

    Attributes:
        depth: The frame's place in the stack, 0 for the innermost.
        header: The loop's first line without its colon: ``while not marker.exists()``.
        line: The line on which the frame stands.
        calls: Calls in the loop, with their arguments as written, in order, at most eight.
        target: Absolute path that it asks about, from the one variable that its text names; empty where that is unknown.
        question: The function that asks about it, ``is_dir``; empty where the target is, or where only the name is known.
    """

    depth: int
    header: str
    line: str = ""
    calls: tuple[str, ...] = ()
    target: str = ""
    question: str = ""


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
        lines: Source lines of the frames that matter for locks, innermost first; empty where the source could not be read.
        mutex_owner: Thread that owns the pthread mutex it waits for, from the mutex itself; None where it waits for none.
        wait_path: Path that the call concerns, as argument or behind its descriptor; None where there is none or it is unreadable.
        futex: What all who wait on one futex in shared memory have in common, ``device:inode:offset``; None for a private one.
        loops: Loops in the source around its innermost frames, innermost first; empty where there are none or no source.
        is_pulse: Whether its own source shows that it only sleeps, prints or writes, and sleeps again, for ever.
        awaits_gil: Whether it waits for the interpreter lock, by the address of its futex.
        has_socket_timeout: Whether the socket that it waits on ends the wait by a time-out of its own; False where nobody asked.
        is_bounded: Whether a loop of a library that it is in ends by a time-out of the program's own choice, or may do so.
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
    lines: tuple[SourceLine, ...] = ()
    mutex_owner: int | None = None
    wait_path: str | None = None
    futex: str | None = None
    loops: tuple[SourceLoop, ...] = ()
    is_pulse: bool = False
    awaits_gil: bool = False
    has_socket_timeout: bool = False
    is_bounded: bool = False


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A socket with two ends, or one that listens.

    Attributes:
        kind: ``tcp``, ``tcp6``, ``udp``, ``udp6`` or ``unix``.
        local: Our end: ``10.0.0.1:4000``, ``[::1]:80``, ``socket:[12]``.
        remote: The other end; that of a listening socket is ``0.0.0.0:0``.
        state: ``ESTABLISHED``, ``SYN_SENT``, ``CLOSE_WAIT``, ``LISTEN``, …
        unsent_bytes: Bytes that the other end has not acknowledged.
        unread_bytes: Bytes that wait to be read, or connections that wait to be accepted.
        peer_pid: Process at the other end, where that is on this machine and was looked for.
        peer_command: Its command line, redacted later.
        listener: ``socket:[n]`` that listens and has not accepted the other end yet; None where it has, or is elsewhere.
    """

    kind: str
    local: str
    remote: str
    state: str
    unsent_bytes: int = 0
    unread_bytes: int = 0
    peer_pid: int | None = None
    peer_command: str | None = None
    listener: str | None = None

    def __str__(self) -> str:
        has_queue = self.unsent_bytes or self.unread_bytes
        queues = f", {self.unsent_bytes} B unsent, {self.unread_bytes} B unread" if has_queue else ""
        return f"{self.kind} {self.local} → {self.remote} {self.state}{queues}"


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True):
    """An open descriptor.

    Attributes:
        fd: Number.
        target: Path, ``pipe:[n]``, ``socket:[n]`` or ``anon_inode:…``.
        offset: Position; None if unreadable.
        flags: Flags of ``open(2)``; None if unreadable.
        peer: Both ends and the state of a socket (``tcp 10.0.0.1:4000 → 10.0.0.2:443 ESTABLISHED``); ``eventfd 7`` and
            ``pidfd 4711`` for what such a descriptor stands for; None for all else.
        connection: The same as values; None for all else.
    """

    fd: int
    target: str
    offset: int | None = None
    flags: int | None = None
    peer: str | None = None
    connection: Connection | None = None


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
        start: First byte that it is on; None if unknown.
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
    start: int | None = None


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
        signals_pending: Mask of the signals that wait for it, of the process and its main thread; None if unreadable.
        signals_blocked: Mask of the signals that its main thread blocks; None if unreadable.
        is_background: Whether its group is in the background of its terminal; None where it has no controlling terminal.
        wait_status: How an ended process ended, as wait(2) says (``os.waitstatus_to_exitcode``); None for a living or an
            unreadable one.
        rss_bytes: Resident memory; None if unreadable.
        swap_bytes: Memory in swap; None if unreadable.
        glimpses: Files and sockets that it had open for a moment only, while it was polling: paths, ``socket:[n]``.
        limits: Soft limits that are not unlimited, by the names of ``/proc/PID/limits``: those that stop a program.
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
    signals_pending: int | None = None
    signals_blocked: int | None = None
    is_background: bool | None = None
    wait_status: int | None = None
    rss_bytes: int | None = None
    swap_bytes: int | None = None
    limits: dict[str, str] = {}
    glimpses: tuple[str, ...] = ()

    @property
    def main_thread(self) -> ThreadEvidence | None:
        """The main thread, if it was seen."""
        return next((thread for thread in self.threads if thread.is_main), None)


class Outsider(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody outside the job who holds an end of what the job waits on.

    Attributes:
        target: What is held: ``pipe:[n]``, ``socket:[n]``, ``eventfd 7``, a locked path, or ``device:inode`` of shared memory.
        pid: Who holds it.
        mode: Access mode of its descriptor: 0 reads, 1 writes, 2 both; None if unknown.
    """

    target: str
    pid: int
    mode: int | None = None


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


class MountEvidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file system that the job works on.

    Attributes:
        point: Where it is mounted, as the job sees it.
        type: ``ext4``, ``nfs4``, ``fuse.sshfs``, ``overlay``, …
        source: Device, server or program behind it.
        is_read_only: Whether it cannot be written.
        free_bytes: Free space for an ordinary user; None where asking could block.
        paths: Paths of the job on it, those that threads wait on first, at most five.
    """

    point: str
    type: str
    source: str = ""
    is_read_only: bool = False
    free_bytes: int | None = None
    paths: tuple[str, ...] = ()


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
        half_written: Files below it that look begun and not finished: by their name, or empty where content is needed.
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
    half_written: tuple[str, ...] = ()


class DeviceProcess(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process that uses a GPU.

    Attributes:
        pid: Its PID as the driver tells it: the host's, in a container.
        name: Its name; None where no such process is to be seen.
        memory_bytes: Device memory that it holds; None where the driver does not attribute.
        kind: ``compute`` or ``graphics``.
    """

    pid: int
    name: str | None = None
    memory_bytes: int | None = None
    kind: str = "compute"


class DeviceEvidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a GPU.

    Attributes:
        index: Device index as NVML counts.
        uuid: Device's UUID.
        facts: Its state by name, in words: clocks, power, links, errors, driver.
        processes: Who uses it.
        xids: Faults that the kernel's log tells of it, oldest first.
        problems: What is wrong with it and what to do, one phrase each; empty for a healthy one.
    """

    index: int
    uuid: str
    facts: dict[str, str] = {}
    processes: tuple[DeviceProcess, ...] = ()
    xids: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


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
        mounts: File systems that the waits and the working directories are on.
        lock_files: Lock files near a job that polls, or that it was seen to try.
        outside: Pipes and sockets (``pipe:[n]``) that the supervisor holds too: something outside the job can speak through them.
        devices: The GPUs' records.
        outsiders: Who outside the job holds an end of what the job's threads wait on; of a survey only.
        unseen: Processes outside the job whose descriptors could not be read; None where nobody looked.
        is_sealed: Whether the supervisor itself gave the job every descriptor that it got from outside.
        refuted: What spoils every proof, whatever those wait for who are then not in ``processes``; of a large job's survey only.
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
    devices: tuple[DeviceEvidence, ...] = ()
    outsiders: tuple[Outsider, ...] = ()
    unseen: int | None = None
    is_sealed: bool = False
    refuted: str = ""
    mounts: tuple[MountEvidence, ...] = ()
    lock_files: tuple[LockFile, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing, of the whole and of every process."""
        return not self.missing and not any(process.missing for process in self.processes)
