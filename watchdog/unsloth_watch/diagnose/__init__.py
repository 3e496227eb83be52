"""From evidence to a cause, a culprit and remedies: ``diagnose(Case(evidence, verdict, looks))``. Pure; one rule a module."""

from unsloth_watch.diagnose.case import Case
from unsloth_watch.diagnose.choice import diagnose

__all__ = ["Case", "diagnose"]
