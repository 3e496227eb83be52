"""What a rule is given: everything that is known about one incident, as values."""

from __future__ import annotations

import msgspec

from unsloth_watch.model.evidence import CacheProbe, Evidence, ProcessEvidence, ThreadEvidence
from unsloth_watch.model.process import ProcessRef
from unsloth_watch.model.sample import Look, Sample
from unsloth_watch.model.verdict import State, Verdict


class Case(msgspec.Struct, frozen=True, dict=True):
    """One incident.

    Attributes:
        evidence: The capture.
        verdict: What the judge said; None for a job that is merely inspected.
        looks: Looks at the stacks before the capture, oldest first: they show whether a stack moves.
        samples: The newest samples before the capture, oldest first: they show rates, devices and the prompt. Empty where none were
            kept.
    """

    evidence: Evidence
    verdict: Verdict | None = None
    looks: tuple[Look, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def processes(self) -> tuple[ProcessEvidence, ...]:
        """The job's processes, the root first."""
        return self.evidence.processes

    @property
    def root(self) -> ProcessEvidence | None:
        """The command itself; the first process where the root is not among the captured ones."""
        for process in self.processes:
            if process.ref == self.evidence.root:
                return process
        return self.processes[0] if self.processes else None

    @property
    def pids(self) -> frozenset[int]:
        """PIDs of the job."""
        return frozenset(process.ref.pid for process in self.processes)

    @property
    def is_doubted(self) -> bool:
        """Whether the judge has seen no progress for long enough to doubt the job."""
        return self.verdict is not None and self.verdict.state in {State.SUSPECTED, State.HUNG}

    def version(self, library: str) -> str | None:
        """Return a library's installed version, None if unknown; ``_`` and ``-`` are the same."""
        versions = self.evidence.versions
        return versions.get(library) or versions.get(library.replace("_", "-")) or versions.get(library.replace("-", "_"))

    def caches(self, cache: str) -> tuple[CacheProbe, ...]:
        """Return the probes of a cache."""
        return tuple(probe for probe in self.evidence.caches if probe.cache == cache)

    def looks_of(self, ref: ProcessRef) -> tuple[Look, ...]:
        """Return the looks at one process, oldest first."""
        return tuple(look for look in self.looks if look.ref == ref)


def main_thread(process: ProcessEvidence) -> ThreadEvidence | None:
    """Return the main thread; the first one where none is marked, None where there is none."""
    return next((thread for thread in process.threads if thread.is_main), process.threads[0] if process.threads else None)
