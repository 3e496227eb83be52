"""What the verbs that only ask a running supervisor for something share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec

from unsloth_watch.cli.arguments import OF_A_RUN, Parser
from unsloth_watch.supervise.request import ask
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.runs import find_run


def give_order(verb: str, words: Sequence[str], description: str, example: str) -> int:
    """Run a verb that is one question to the supervisor; return 0, or raise what it refused."""
    parser = Parser(verb, description, example, status=OF_A_RUN)
    parser.add_run(is_required=True)
    parser.add_json()
    options = parser.parse_args(words)
    run = find_run(options.run, options.runs_dir)
    answer = ask(run.directory, verb)
    if options.json:
        write_json(answer)
    else:
        sys.stdout.write(f"{run.record.id}: {_describe(verb, answer)}\n")
    return 0


def write_json(data: object) -> None:
    """Write data to standard output, indented."""
    sys.stdout.buffer.write(msgspec.json.format(encode_line(data), indent=2) + b"\n")


def _describe(verb: str, answer: Mapping[str, object]) -> str:
    if verb == "restart":
        return f"attempt {answer['attempt']} follows"
    if verb == "reload":
        return _describe_reload(answer)
    return {"pause": "watching is paused", "resume": "watching again", "stop": "asked to end"}[verb]


def _describe_reload(answer: Mapping[str, object]) -> str:
    changed, deferred = answer["changed"], answer["deferred"]
    words = [f"{name} is now {value}" for name, value in changed.items()] if isinstance(changed, dict) else []
    text = ", ".join(words) or "nothing changed for this run"
    return f"{text}; from the next start on: {', '.join(map(str, deferred))}" if isinstance(deferred, list) and deferred else text
