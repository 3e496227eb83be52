"""Remedies of waits that lead nowhere: the job's own threads, locks and workers."""

from __future__ import annotations

from unsloth_watch.diagnose.blame import Trace
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.model.diagnosis import Remedy
from unsloth_watch.waits.want import Aim

RACE = "whether it happens depends on the order in which threads run, so a fresh start may pass"


def mend_race(where: str = "", *, is_own: bool = False) -> tuple[Remedy, ...]:
    """Return the remedies of a deadlock between threads, or of a thread that waits for its own lock."""
    if is_own:
        advice = f"call nothing that needs the lock while it is held, or make it an RLock{f'; see {where}' if where else ''}"
        return relaunch(RACE), Remedy("no-call-under-lock", "the thread waits for itself", "advice", advice=advice)
    advice = f"take the locks in one order everywhere{f'; see {where}' if where else ''}"
    return relaunch(RACE), Remedy("lock-order", "the same order of locks everywhere makes it impossible", "advice", advice=advice)


def mend_fork(found: Trace) -> tuple[Remedy, ...]:
    """Return the remedies of a lock that was held at a fork: those that keep the library from having threads at that moment."""
    frames = " ".join(f"{frame.file} {frame.function}" for frame in found.thread.frames)
    environment = found.process.environment or {}
    remedies = []
    if (found.want.aim is Aim.OPENMP or "libgomp" in frames or "mkl" in frames) and environment.get("OMP_NUM_THREADS") != "1":
        remedies.append(
            Remedy(
                "single-openmp-thread",
                "with one thread OpenMP has no team that a forked process could wait for",
                "environment",
                environment={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                overrides=("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
                advice="or start the workers with the method spawn, or call torch.set_num_threads(1) in them",
            )
        )
    if "tokenizers" in frames and environment.get("TOKENIZERS_PARALLELISM") != "false":
        remedies.append(
            Remedy(
                "serial-tokenizers",
                "without its thread pool tokenizers holds no lock at the fork",
                "environment",
                environment={"TOKENIZERS_PARALLELISM": "false"},
                overrides=("TOKENIZERS_PARALLELISM",),
            )
        )
    is_datasets = any("/datasets/" in frame.file for key in found.chain.keys for frame in found.graph.scene.threads[key].frames)
    advice = "map with num_proc=1" if is_datasets else "start the workers with the method spawn, or before any thread is started"
    return (
        *remedies,
        relaunch("whether the lock is held at the moment of the fork is a race, so a fresh start may pass"),
        Remedy(
            "no-fork-with-threads", "a process that is not forked has no locks of threads that it lacks", "advice", advice=advice
        ),
    )


def mend_worker() -> tuple[Remedy, ...]:
    """Return the remedies of a worker that died."""
    return (
        relaunch("a worker that was killed once, for memory or by a person, may live the next time"),
        Remedy(
            "fewer-workers",
            "workers are most often killed for memory, and fewer need less",
            "advice",
            advice="use fewer workers (num_proc, num_workers, dataset_num_proc); see dmesg for the kernel's OOM killer",
        ),
    )


def mend_wait() -> tuple[Remedy, ...]:
    """Return the remedies of a wait that nobody ends."""
    return (
        relaunch("what should have ended the wait failed or came too early, and may not the next time"),
        Remedy("wait-with-timeout", "a wait with a timeout fails with a stack trace instead of for ever", "advice",
               advice="look in the output for an error of the thread that should have signalled; give the wait a timeout"),
    )  # fmt: skip


def mend_pipe(reader: str) -> tuple[Remedy, ...]:
    """Return the remedies of a full pipe."""
    return (
        Remedy(
            "read-the-pipe",
            f"{reader} has to read while the other end writes: a pipe holds 64 KiB",
            "advice",
            advice="use subprocess.run(capture_output=True) or Popen.communicate(), or take items off a queue before join()",
        ),
        relaunch("with less to say the pipe may not fill"),
    )


def mend_exit() -> tuple[Remedy, ...]:
    """Return the remedies of an interpreter that does not end."""
    return (
        relaunch("what keeps it from ending may be quicker the next time"),
        Remedy("daemon-threads", "the interpreter waits for every thread that is no daemon", "advice",
               advice="make that thread a daemon, or tell it to stop before the end; results that were saved are complete"),
    )  # fmt: skip


def mend_missing(who: str) -> tuple[Remedy, ...]:
    """Return the remedies of a rank that is not there."""
    advice = (
        f"look at the log of {who}; check that WORLD_SIZE (--nnodes, --nproc-per-node) is the number of ranks that are started, "
    )
    return (
        relaunch("a rank that was late or lost may be there at the next attempt"),
        Remedy("start-rank", f"the others go on as soon as {who} comes", "advice",
               advice=f"{advice}and that MASTER_ADDR and MASTER_PORT are the same for all"),
    )  # fmt: skip


def mend_machine(endpoint: str) -> tuple[Remedy, ...]:
    """Return the remedies of a machine that has not joined; the endpoint is where all meet, empty if unknown."""
    where = endpoint or "the first machine's address"
    return (
        relaunch("the other machine may be ready at the next attempt"),
        Remedy("start-machine", "the launcher goes on as soon as as many machines as it was told of have joined", "advice",
               advice=f"start the same command on every machine, and check that {where} can be reached from each of them"),
    )  # fmt: skip


def mend_ranks() -> tuple[Remedy, ...]:
    """Return the remedies of ranks that do not meet."""
    return (
        relaunch("a rank that was late or lost may be there at the next attempt"),
        Remedy("same-collectives", "every rank has to enter the same collectives in the same order", "advice",
               advice="look at what the named rank does; NCCL_P2P_DISABLE=1 on consumer cards where all are in one collective"),
    )  # fmt: skip
