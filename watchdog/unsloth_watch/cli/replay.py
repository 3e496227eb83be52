"""``unsloth-watch replay RUN``: what the judge would have said of a recorded run, with other timeouts if asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.words import parse_age
from unsloth_watch.config.duration import format_duration
from unsloth_watch.errors import CannotLookError, UsageError
from unsloth_watch.judge.rules import Rules
from unsloth_watch.supervise.replay import AttemptReplay, find_disagreements, replay, rules_of
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.directory import RunDirectory
from unsloth_watch.tell.events import read_events
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.runs import find_run
from unsloth_watch.tell.samples import read_samples

SCHEMA = "unsloth-watch/replay/1"


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0, or 1 where the settings are the run's own and the replay says otherwise than the run did."""
    options = _parser().parse_args(words)
    run = find_run(options.run, options.runs_dir)
    directory = RunDirectory(run.directory)
    own = rules_of(run.record, None, None)
    rules = rules_of(run.record, options.stall_timeout, options.busy_timeout)
    if rules.busy_s < rules.stall_s:
        raise UsageError("--busy-timeout is shorter than --stall-timeout, which no run may have; raise --busy-timeout")
    try:
        attempts = replay(read_samples(directory.samples), rules)
    except FileNotFoundError:
        attempts = ()
    except OSError as error:
        raise CannotLookError(f"{directory.samples} cannot be read: {error.strerror}") from None
    if not attempts:
        raise CannotLookError(
            f"{run.record.id} has no samples to judge: it was over before the first, or its disk was full; see unsloth-watch runs"
        )
    try:
        events = list(read_events(directory.events))
    except OSError:
        events = []
    disagreements = find_disagreements(attempts, events) if rules == own else []
    if options.json:
        found = {
            "schema": SCHEMA,
            "run": run.record.id,
            "rules": rules,
            "own_rules": own,
            "attempts": attempts,
            "recorded": [event for event in events if event.get("event") == "hang.detected"],
            "disagreements": disagreements,
        }
        sys.stdout.buffer.write(msgspec.json.format(encode_line(found), indent=2) + b"\n")
    else:
        sys.stdout.write("\n".join(_lines(run.record.id, rules, own, attempts, disagreements)) + "\n")
    return 1 if disagreements else 0


def _parser() -> Parser:
    parser = Parser(
        "replay",
        "Judges a recorded run again from its samples: by its own settings, or by others, to see what they would have done. "
        "Samples older than ten minutes at the run's end are kept ten times coarser, so what is said of them is approximate.",
        "unsloth-watch replay latest --stall-timeout 60s",
        status="0; 1 the replay contradicts the run's own events; 3 there is no such run, or it has no samples",
    )
    parser.add_run()
    parser.add_argument("--stall-timeout", type=parse_age, metavar="DURATION", help="stall timeout (default the run's own)")
    parser.add_argument("--busy-timeout", type=parse_age, metavar="DURATION", help="busy timeout (default the run's own)")
    parser.add_json()
    return parser


def _lines(run: str, rules: Rules, own: Rules, attempts: tuple[AttemptReplay, ...], disagreements: Sequence[str]) -> Iterator[str]:
    """Yield the answer for people."""
    timeouts = f"--stall-timeout {format_duration(rules.stall_s)} --busy-timeout {format_duration(rules.busy_s)}"
    yield f"{run} judged again with {timeouts}" + (" (its own settings)" if rules == own else "")
    for one in attempts:
        yield f"attempt {one.attempt}: {one.samples} samples over {one.seconds:.1f} s, longest silence {one.longest_quiet_s:.1f} s"
        for hang in one.hangs:
            how = "proven" if hang.proven else f"allowed {hang.limit_s:.1f} s"
            last = clean_line(hang.last_progress or "nothing")
            yield f"  {hang.at_s:8.1f} s  hung: quiet for {hang.quiet_s:.1f} s, {how}; last: {last}"
            for reason in hang.reasons:
                yield f"{'':13}{clean_line(reason)}"
            if hang.resumed_s is not None:
                yield f"  {hang.resumed_s:8.1f} s  a false alarm: it went on ({clean_line(hang.resumed_by or '?')})"
        if not one.hangs:
            yield f"  not called hung; at the end {one.state.value}, quiet for {one.quiet_s:.1f} s"
    for phrase in disagreements:
        yield f"differs from the run: {clean_line(phrase)}"
