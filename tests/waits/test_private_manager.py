"""A manager counts as the job's own only where its stack shows that ``multiprocessing.Manager()`` has forked it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from unsloth_watch.judge.quiescence import Proof, prove
from unsloth_watch.model.evidence import Evidence, Frame, ThreadEvidence
from unsloth_watch.waits.manager import is_private_manager
from unsloth_watch.waits.scene import Doubt

pytestmark = pytest.mark.quick

SURVEYS = Path(__file__).parent.parent / "data" / "surveys"
Frames = tuple[Frame, ...]


def read(name: str) -> list[Evidence]:
    return msgspec.json.decode((SURVEYS / f"{name}.json").read_bytes(), type=list[Evidence])


def server_of(survey: Evidence) -> ThreadEvidence:
    return next(one for process in survey.processes for one in process.threads if one.is_main and process.ref != survey.root)


def rename(frames: Frames, function: str, other: str) -> Frames:
    return tuple(msgspec.structs.replace(one, function=other) if one.function == function else one for one in frames)


def test_a_manager_of_the_context_is_private() -> None:
    assert is_private_manager(server_of(read("hang_manager_lock")[0]))


NEAR_MISSES: list[tuple[str, Callable[[Frames], Frames]]] = [
    ("it was not forked, so that nothing is seen", lambda frames: frames[:5]),
    ("the program made it itself", lambda frames: tuple(one for one in frames if not one.function.endswith(".Manager"))),
    ("a function of the program's is called so", lambda frames: tuple(
        msgspec.structs.replace(one, file="/project/context.py") if one.function.endswith(".Manager") else one for one in frames
    )),
    ("a manager that was made inside of another call", lambda frames: (
        *frames[:-3], Frame("make", "/project/managers.py", 3), *frames[-3:]
    )),
    ("it does something else", lambda frames: rename(frames, "Server.serve_forever", "Server.shutdown")),
    ("it has no stack", lambda frames: ()),
]  # fmt: skip


@pytest.mark.parametrize(("why", "miss"), NEAR_MISSES, ids=[why for why, _ in NEAR_MISSES])
def test_any_other_manager_may_have_clients_anywhere(why: str, miss: Callable[[Frames], Frames]) -> None:
    surveys = read("hang_manager_lock")
    server = server_of(surveys[0])
    assert not is_private_manager(msgspec.structs.replace(server, frames=miss(server.frames)))
    assert isinstance(prove(surveys, is_gpu_idle=True), Proof)
    changed = [change_server(survey, miss) for survey in surveys]
    assert isinstance(prove(changed, is_gpu_idle=True), Doubt), why


def change_server(survey: Evidence, miss: Callable[[Frames], Frames]) -> Evidence:
    """The survey with other frames of its manager's main thread."""
    processes = tuple(
        process
        if process.ref == survey.root
        else msgspec.structs.replace(
            process,
            threads=tuple(msgspec.structs.replace(one, frames=miss(one.frames)) if one.is_main else one for one in process.threads),
        )
        for process in survey.processes
    )
    return msgspec.structs.replace(survey, processes=processes)


def test_a_servant_that_woke_has_a_client_that_lives() -> None:
    surveys = read("hang_manager_lock")
    last = surveys[-1]
    processes = tuple(
        msgspec.structs.replace(
            process,
            threads=tuple(
                msgspec.structs.replace(one, vctx=(one.vctx or 0) + 1) if one.call == "futex" and not one.is_main else one
                for one in process.threads
            ),
        )
        for process in last.processes
    )
    woken = msgspec.structs.replace(last, processes=processes)
    assert isinstance(prove([*surveys[:-1], woken], is_gpu_idle=True), Doubt)
