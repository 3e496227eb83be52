"""The incidents that were dealt with: kept until their reports are there, and while it is open whether their remedy helped."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.supervise.incident import Investigation


class Shelf:
    """Holds few of them at a time: the evidence of one takes megabytes."""

    def __init__(self) -> None:
        self._incidents: list[Investigation] = []

    def put(self, investigation: Investigation) -> None:
        """Lay an incident by, and let go of those that are done with."""
        done = [one for one in self._incidents if one.is_written and not one.is_mended]
        for one in done:
            one.wait()
        self._incidents = [*(one for one in self._incidents if one not in done), investigation]

    def find_mended(self) -> Investigation | None:
        """Return the newest incident whose remedy was applied and has not shown yet whether it helps."""
        return next((one for one in reversed(self._incidents) if one.is_mended), None)

    def compare(self, investigation: Investigation, attempt: int) -> None:
        """Conclude the incident whose remedy an attempt ran with that has now hung as well.

        Args:
            investigation: The incident at hand.
            attempt: The attempt's number.
        """
        before = self.find_mended()
        if before is not None:
            # By the same hang, or by one that lay behind it.
            is_same = before.diagnosis.fingerprint == investigation.diagnosis.fingerprint
            came = "hung in the same way" if is_same else "got past it, and hung elsewhere"
            before.conclude(f"attempt {attempt} {came}", worked=not is_same)

    def wait(self) -> None:
        """Wait for the reports; at the end of a run."""
        for one in self._incidents:
            one.wait()
