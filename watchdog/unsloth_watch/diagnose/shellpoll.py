"""``poll-loop`` in a shell script: ``while ! test -f x; do sleep 1; done``. A shell has no stack; its children tell."""

from __future__ import annotations

from collections.abc import Iterator

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.fingerprint import fingerprint
from unsloth_watch.diagnose.remedies import relaunch
from unsloth_watch.diagnose.rule import CONFIDENCE
from unsloth_watch.model.diagnosis import Culprit, Diagnosis, Statement, Status
from unsloth_watch.model.evidence import ProcessEvidence
from unsloth_watch.model.process import ProcessRef

_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")
MIN_SLEEPS = 2
"""Different ``sleep`` processes that must have been seen: one alone may be a pause that is planned."""


class ShellPoll:
    """A shell that starts one ``sleep`` after the other and nothing else that lasts."""

    id = "poll-loop"

    def judge(self, case: Case) -> Diagnosis | None:
        """Return the shell; None where none is seen to sleep again and again."""
        for process, sleeps in _find(case):
            return _explain(case, process, sleeps)
        return None


def _find(case: Case) -> Iterator[tuple[ProcessEvidence, int]]:
    for process in case.processes:
        if (process.executable or "").rpartition("/")[2] not in _SHELLS:
            continue
        children = [other for other in case.processes if other.ppid == process.ref.pid]
        if any((other.executable or "").rpartition("/")[2] not in ("sleep", "") for other in children):
            continue  # it waits for something that works
        sleeps = _count_sleeps(case, process.ref)
        if sleeps >= MIN_SLEEPS:
            yield process, sleeps


def _count_sleeps(case: Case, shell: ProcessRef) -> int:
    seen: set[ProcessRef] = set()
    for sample in case.samples:
        seen.update(process.ref for process in sample.processes or () if process.ppid == shell.pid and process.comm == "sleep")
    return len(seen)


def _explain(case: Case, process: ProcessEvidence, sleeps: int) -> Diagnosis:
    command = " ".join(process.command or ())[:200]
    status = Status.SUPPORTED if case.is_doubted else Status.HYPOTHESIS
    culprit = Culprit(kind="process", pid=process.ref.pid, peer=command or None)
    span = case.samples[-1].at - case.samples[0].at
    return Diagnosis(
        cause=ShellPoll.id,
        title="A shell script polls for something that does not come",
        summary=f"PID {process.ref.pid} ({command or 'a shell'}) sleeps and asks again and again; what it asks for does not come.",
        status=status,
        confidence=CONFIDENCE[status],
        culprit=culprit,
        evidence=(
            Statement(f"{sleeps} different sleep processes of PID {process.ref.pid} were seen in {span:.0f} s", "samples"),
            Statement(f"its command: {command or 'unreadable'}", "/proc/PID/cmdline"),
        ),
        refuted_by="the script starts another command than sleep that lasts",
        remedies=(relaunch("what it waits for may be there at the next attempt"),),
        fingerprint=fingerprint(ShellPoll.id, Culprit(kind="process"), ()),
    )
