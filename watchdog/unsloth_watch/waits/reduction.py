"""A survey reduced to what a proof needs: it goes into every recording, and a large job has thousands of threads and files."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.waits.ends import find_peer
from unsloth_watch.waits.scene import KERNEL_OBJECTS, Scene, has_gpu
from unsloth_watch.waits.wait import Class, find_outer_loop, identify

_FRAMES = 3
"""Frames kept of a thread whose stack decides nothing."""


def reduce_survey(survey: Evidence) -> Evidence:
    """Return the survey without descriptors that nobody waits on, and without what is private or only for people."""
    scene = Scene(survey, is_gpu_idle=False)
    wanted = {target for wait in scene.waits.values() for target in wait.targets}
    for process in survey.processes:
        for descriptor in process.descriptors or ():
            if descriptor.target in wanted and descriptor.connection is not None:
                wanted.add(find_peer(descriptor.connection, scene) or "")
    return msgspec.structs.replace(
        survey,
        processes=tuple(_reduce_process(process, wanted, scene) for process in survey.processes),
        outside=tuple(target for target in survey.outside if target in wanted),
    )


def _reduce_process(process: ProcessEvidence, wanted: set[str], scene: Scene) -> ProcessEvidence:
    descriptors = process.descriptors
    if descriptors is not None:
        kept = {
            (identify(descriptor), descriptor.fd if identify(descriptor) in wanted else -1): descriptor
            for descriptor in descriptors
            if identify(descriptor) in wanted or any(kind in descriptor.target for kind in KERNEL_OBJECTS)
        }
        gpu = next(
            (descriptor for descriptor in descriptors if has_gpu(msgspec.structs.replace(process, descriptors=(descriptor,)))), None
        )
        descriptors = (*kept.values(), *(() if gpu is None else (gpu,)))
    return ProcessEvidence(
        ref=process.ref,
        ppid=process.ppid,
        executable=process.executable,
        state=process.state,
        tracer_pid=process.tracer_pid,
        threads=tuple(_reduce_thread(thread, process, scene) for thread in process.threads),
        descriptors=descriptors,
        missing=process.missing,
        signals_caught=process.signals_caught,
        has_timers=process.has_timers,
        is_background=process.is_background,
    )


def _reduce_thread(thread: ThreadEvidence, process: ProcessEvidence, scene: Scene) -> ThreadEvidence:
    wait = scene.waits[process.ref.pid, thread.tid]
    has_clock = wait.kind in (Class.TIMED, Class.INTERPRETER) or wait.loop is not None or find_outer_loop(thread) is not None
    return ThreadEvidence(
        tid=thread.tid,
        name=thread.name,
        is_main=thread.is_main,
        frames=thread.frames if has_clock else thread.frames[:_FRAMES],
        has_gil=thread.has_gil or None,
        state=thread.state,
        syscall=thread.syscall if thread.wait_fds else None,
        syscall_args=thread.syscall_args,
        wait_channel=thread.wait_channel,
        cpu_s=thread.cpu_s,
        vctx=thread.vctx,
        call=thread.call,
        wait=thread.wait,
        wait_fds=thread.wait_fds,
        futex=thread.futex,
        is_pulse=thread.is_pulse,
        awaits_gil=thread.awaits_gil,
        has_socket_timeout=thread.has_socket_timeout,
        is_bounded=thread.is_bounded,
    )
