"""``unsloth-watch inspect PID``: is this process hung, and why?"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.cli.arguments import Parser
from unsloth_watch.cli.words import parse_age
from unsloth_watch.model.evidence import ProcessEvidence, ThreadEvidence
from unsloth_watch.supervise.examine import Examination, examine
from unsloth_watch.tell.console import clean_line
from unsloth_watch.tell.lines import encode_line
from unsloth_watch.tell.redact import Redactor

SCHEMA = "unsloth-watch/inspection/1"
_FRAMES_SHOWN = 8


def main(words: Sequence[str]) -> int:
    """Run the verb; return 0 progressing, 1 hung, 2 undecided, 3 cannot look."""
    options = _parser().parse_args(words)
    examination = examine(options.pid, options.seconds)
    redactor = Redactor(os.environ)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.format(encode_line(_data(examination, options.pid, redactor)), indent=2) + b"\n")
    else:
        sys.stdout.write("\n".join(_clean(redactor.text(line)) for line in _lines(examination, options.pid)) + "\n")
    return examination.answer.exit_code


def _clean(line: str) -> str:
    """Return a line without control signs that the names of processes, threads and files may hold; its indentation stays."""
    return " " * (len(line) - len(line.lstrip(" "))) + clean_line(line)


def _parser() -> Parser:
    parser = Parser(
        "inspect",
        "Watches a process and everything below it for some seconds, takes its stacks without pausing it, and says "
        "whether it gets further, and if not why. Changes nothing.",
        "unsloth-watch inspect 4711 --json",
        status="0 progressing, 1 hung, 2 undecided, 3 cannot look",
    )
    parser.add_argument("pid", type=_pid, metavar="PID", help="process to look at")
    parser.add_argument("--seconds", type=_seconds, default=3.0, metavar="DURATION", help="how long to watch it (default 3s)")
    parser.add_argument("--json", action="store_true", help="answer with data")
    return parser


def _pid(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a process id")
    return int(word)


def _seconds(word: str) -> float:
    return max(1.0, parse_age(word))


def _data(examination: Examination, pid: int, redactor: Redactor) -> object:
    """Return what ``--json`` prints; the environment of the processes stays out of it."""
    processes = tuple(msgspec.structs.replace(process, environment=None) for process in examination.evidence.processes)
    evidence = msgspec.structs.replace(examination.evidence, processes=processes)
    found = {
        "schema": SCHEMA,
        "pid": pid,
        "answer": examination.answer,
        "why": examination.why,
        "doing": examination.doing,
        "allow": examination.allow,
        "seconds": examination.seconds,
        "verdict": examination.verdict,
        "diagnosis": examination.diagnosis,
        "evidence": evidence,
    }
    return redactor.value(found)


def _lines(examination: Examination, pid: int) -> Iterator[str]:
    """Yield the answer for people."""
    diagnosis, evidence = examination.diagnosis, examination.evidence
    yield f"PID {pid} is {examination.answer.value}: {examination.why}"
    yield f"doing: {examination.doing}"
    if examination.answer.exit_code == 1:
        culprit = f"; culprit: {diagnosis.culprit}" if diagnosis.culprit is not None else ""
        yield f"cause: {diagnosis.cause} ({diagnosis.status.value}, confidence {diagnosis.confidence:.0%}){culprit}"
        for remedy in diagnosis.remedies:
            yield f"remedy {remedy.id}: {remedy.advice or remedy.why}"
    yield f"watched for {examination.seconds:g} s: {'; '.join(examination.verdict.reasons)}"
    for number, step in enumerate(examination.verdict.proof, start=1):
        yield f"proof {number}: {step}"
    for process in evidence.processes:
        yield ""
        yield from _process_lines(process)
    missing = [*evidence.missing, *(phrase for process in evidence.processes for phrase in process.missing)]
    if missing:
        yield ""
        yield "could not be read:"
        for phrase in missing:
            yield f"  {phrase}"
        if examination.allow is not None:
            yield f"to allow it: {examination.allow}"


def _process_lines(process: ProcessEvidence) -> Iterator[str]:
    command = clean_line(shlex.join(process.command)) if process.command else process.executable or "?"
    yield f"PID {process.ref.pid} ({process.state}) {command[:160]}"
    threads = [thread for thread in process.threads if thread.frames] or list(process.threads[:1])
    for thread in threads:
        yield from _thread_lines(thread)
    silent = len(process.threads) - len(threads)
    if silent:
        yield f"  and {silent} thread{'s' if silent > 1 else ''} without a Python stack"


def _thread_lines(thread: ThreadEvidence) -> Iterator[str]:
    yield f"  thread {thread.name}: {thread.wait or f'state {thread.state}'}"
    for frame in thread.frames[:_FRAMES_SHOWN]:
        yield f"    {frame}"
    if len(thread.frames) > _FRAMES_SHOWN:
        yield f"    … {len(thread.frames) - _FRAMES_SHOWN} more frames"
