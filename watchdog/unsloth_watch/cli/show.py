"""``unsloth-watch show [RUN]``: what a run is doing now, or how it ended."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.order import write_json
from unsloth_watch.errors import WatchError
from unsloth_watch.model.live import LiveState
from unsloth_watch.supervise.request import NotRunningError, ask
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.nowline import describe_now
from unsloth_watch.tell.runs import KnownRun, find_run

SCHEMA = "unsloth-watch/show/1"


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "show",
        "Says what a run is doing now, or how it ended.",
        "unsloth-watch show latest --json",
        status="0 done, 3 there is no such run, or its supervisor does not answer",
    )
    parser.add_run()
    parser.add_json()
    options = parser.parse_args(words)
    run = find_run(options.run, options.runs_dir)
    live = read_live(run)
    if options.json:
        write_json({"schema": SCHEMA, "directory": run.directory, "live": live, "run": run.record})
    else:
        sys.stdout.write("\n".join(clean_line(line) for line in _lines(run, live)) + "\n")
    return 0


def read_live(run: KnownRun) -> LiveState | None:
    """Ask a run's supervisor what it is doing; None where there is none any more.

    Raises:
        WatchError: It is there and does not answer, or in words of another version.
    """
    if run.record.outcome is not None:
        return None
    try:
        return msgspec.convert(ask(run.directory, "show").get("live"), LiveState)
    except NotRunningError:
        return None
    except msgspec.ValidationError as error:  # jobs run for days, and this program is updated meanwhile
        raise WatchError(f"{run.directory}: its supervisor is of another version ({error})") from None


def describe_end(run: KnownRun, live: LiveState | None) -> str:
    """Return in some words how a run stands."""
    record = run.record
    if live is not None:
        return describe_now(live)
    if record.outcome is None:
        return "the supervisor was killed; its records end there"
    return f"{record.outcome}, exit status {record.exit_code}"


def _lines(run: KnownRun, live: LiveState | None) -> Iterator[str]:
    record = run.record
    yield f"{record.id}: {describe_end(run, live)}"
    yield f"command: {shlex.join(record.command)}"
    yield f"in {record.cwd}, started {record.started}" + (f", finished {record.finished}" if record.finished else "")
    yield f"records: {run.directory}"
    if live is not None:
        yield f"supervisor PID {live.supervisor_pid}, command PID {live.pid}"
        yield from (f"because: {reason}" for reason in live.reasons)
        if live.degraded:
            yield f"cannot see: {', '.join(live.degraded)}"
    for attempt in record.attempts:
        how = "runs" if attempt.finished is None else attempt.signal or f"exit status {attempt.exit_code}"
        yield f"attempt {attempt.number}: {how}" + (f" ({attempt.reason})" if attempt.reason else "")
    for incident in record.incidents:
        what = "evidence asked for" if incident.is_asked_for else incident.cause
        yield f"incident {incident.number}: {what}: {incident.summary}"
