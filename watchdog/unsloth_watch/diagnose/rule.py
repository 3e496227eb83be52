"""The shape of a rule, and the plain parts that rules share."""

from __future__ import annotations

from typing import Protocol

from unsloth_watch.diagnose.case import Case
from unsloth_watch.model.diagnosis import Diagnosis, Status

CONFIDENCE = {Status.ESTABLISHED: 0.97, Status.SUPPORTED: 0.75, Status.HYPOTHESIS: 0.4, Status.UNKNOWN: 0.0}
"""Probability that is said for a status where a rule knows nothing better. Not measured: the order is what counts."""


class Rule(Protocol):
    """One mechanism by which programs hang.

    A rule is pure, and it speaks only where its own tell-tales are: most rules answer None to most cases. It says ``established``
    only for evidence that leaves no other reading.
    """

    @property
    def id(self) -> str:
        """Id of the catalogue of causes."""
        ...

    def judge(self, case: Case) -> Diagnosis | None:
        """Return what this rule makes of a case; None where its cause does not show."""
        ...
