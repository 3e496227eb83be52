"""What may be asked of a running supervisor through its control socket; each order is answered at once, the loop acts upon it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from unsloth_watch.errors import WatchError
from unsloth_watch.supervise import clock
from unsloth_watch.supervise.control import Request
from unsloth_watch.supervise.now import read_now
from unsloth_watch.supervise.phase import WATCHED, Phase
from unsloth_watch.supervise.reload import reload_settings
from unsloth_watch.supervise.shutdown import RESTART

if TYPE_CHECKING:
    from unsloth_watch.supervise.run import Run

Answer = dict[str, object]


def obey(run: Run, request: Request) -> Answer:
    """Return the answer to a request; a refusal says why."""
    order = ORDERS.get(request.verb)
    if order is None:
        return _refuse(f"unknown verb {request.verb!r}; known: {', '.join(ORDERS)}")
    if run.phase is Phase.FINISHED and order is not _show:
        return _refuse("the run is over")
    return order(run, request)


def _show(run: Run, _request: Request) -> Answer:
    live = read_now(run, clock.monotonic())
    return _accept(live=run.chronicle.redactor.value(msgspec.to_builtins(live)))


def _stop(run: Run, request: Request) -> Answer:
    if request.fields.get("force") == "yes" and not run.job.is_attached and run.phase is not Phase.WAITING:
        _end(run)
    else:
        run.interrupts.receive(signal.SIGTERM)
    return _accept()


def _end(run: Run) -> None:
    """End the job and the run: SIGINT, SIGTERM and SIGKILL with the grace period between them."""
    run.interrupts.asked.append(signal.SIGTERM)
    if run.phase in WATCHED:
        run.response.abandon()
        run.terminate("stop asked for", clock.monotonic())


def _restart(run: Run, _request: Request) -> Answer:
    """End the attempt that runs, and start the next at once; no remedy is applied and no limit counts it."""
    if run.interrupts.is_ending:
        return _refuse("ending was asked for")
    if run.phase is Phase.WAITING:
        run.relaunch.at = clock.monotonic()
        return _accept(attempt=run.attempt + 1)
    if run.phase is Phase.TERMINATING:
        return _refuse(f"attempt {run.attempt} is being ended already")
    run.response.abandon()
    run.terminate(RESTART, clock.monotonic())
    return _accept(attempt=run.attempt + 1)


def _capture(run: Run, _request: Request) -> Answer:
    if run.phase is Phase.CAPTURING or run.response.asked_for is not None:
        return _refuse("evidence is being taken already")
    if run.phase is not Phase.RUNNING:
        return _refuse(f"there is nobody to look at: the run is {run.phase.value}")
    if run.watch is None or run.watch.verdict is None:
        return _refuse("the first sample has not been taken yet; try again in a second")
    number = run.response.request(clock.monotonic())
    return _accept(incident=number, directory=run.launch.directory.incident(number))


def _pause(run: Run, _request: Request) -> Answer:
    run.pause()
    return _accept(is_paused=True)


def _resume(run: Run, _request: Request) -> Answer:
    run.resume()
    return _accept(is_paused=False)


def _reload(run: Run, _request: Request) -> Answer:
    try:
        changed, deferred = reload_settings(run)
    except WatchError as error:
        return _refuse(f"nothing was changed: {error}")
    return _accept(changed=changed, deferred=deferred)


ORDERS: dict[str, Callable[[Run, Request], Answer]] = {
    "show": _show,
    "stop": _stop,
    "restart": _restart,
    "capture": _capture,
    "pause": _pause,
    "resume": _resume,
    "reload": _reload,
}
"""Verb → what it does."""


def _accept(**fields: object) -> Answer:
    return {"ok": True, **fields}


def _refuse(why: str) -> Answer:
    return {"ok": False, "error": why}
