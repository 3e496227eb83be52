"""The response to a hang: evidence, report, a repair of the living job, and else the way to the kill; and evidence on request."""

from __future__ import annotations

from unsloth_watch.supervise.phase import Phase
from unsloth_watch.supervise.shelf import Shelf
from unsloth_watch.supervise.shutdown import HANG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unsloth_watch.model.verdict import Verdict
    from unsloth_watch.supervise.incident import Investigation
    from unsloth_watch.supervise.job import Ending
    from unsloth_watch.supervise.mending import LiveRepair
    from unsloth_watch.supervise.run import Run


class Response:
    """Deals with the incidents of a run, one at a time.

    Args:
        run: The run.

    Attributes:
        investigation: The incident at hand, None where there is none.
        asked_for: Evidence that a person asked for, while it is being taken.
        is_upshot: Whether the command's own end is what came of a repair: the hang's next remedy is due then, not a crash's.
    """

    def __init__(self, run: Run) -> None:
        self.investigation: Investigation | None = None
        self.asked_for: Investigation | None = None
        self.is_upshot = False
        self._run = run
        self._repair: LiveRepair | None = None
        self._shelf = Shelf()
        self._is_reported = False

    def begin_attempt(self) -> None:
        """Forget what was true of the attempt before."""
        self.is_upshot = False
        self._is_reported = False

    def note(self, action: str) -> None:
        """Remember in the incident at hand, if there is one, something that was done."""
        if self.investigation is not None:
            self.investigation.note(action)

    # From the verdict on --------------------------------------------------------------------------------------------------------

    def heed(self, verdict: Verdict, now: float) -> None:
        """Act upon a change of the judge's mind.

        Args:
            verdict: On the newest sample.
            now: Monotonic seconds.
        """
        run = self._run
        is_hung = verdict.state.value == "hung" and not run.interrupts.has_stopped_command()
        if run.phase is Phase.REPAIRING:
            self._judge_repair(is_hung=is_hung, now=now)
        elif is_hung and run.phase is Phase.RUNNING and not self._is_reported:
            run.enter(Phase.CAPTURING)
            self.investigation = self._investigate(verdict, now)
        elif not is_hung:
            if run.phase is Phase.CAPTURING:
                # It moved while the evidence was taken, or a sense was lost and the judge became more patient: no longer a verdict
                # to act upon. The task ends by itself.
                self.investigation = None
                run.enter(Phase.RUNNING)
            if run.watch is not None and run.watch.suspected_at is None:
                self._is_reported = False

    def request(self, now: float) -> int:
        """Take evidence beside the loop, without pausing or ending anybody; return the number of the incident that will hold it.

        Args:
            now: Monotonic seconds; a sample has been judged by then.
        """
        watch = self._run.watch
        assert watch is not None
        assert watch.verdict is not None
        self.asked_for = self._investigate(watch.verdict, now, is_asked_for=True)
        return self.asked_for.number

    def advance(self, now: float) -> None:
        """Go on at ``now``, monotonic seconds, with what has been done beside the loop."""
        if self._run.phase is Phase.CAPTURING:
            self._conclude_investigation(now)
        elif self._run.phase is Phase.REPAIRING:
            self._conclude_repair()
        if self.asked_for is not None and self.asked_for.is_done:
            done, self.asked_for = self.asked_for, None
            done.announce()
            done.write()
            self._shelf.put(done)

    @property
    def is_ready(self) -> bool:
        """Whether evidence, or a repair that could not be made, waits to be acted upon: the judge is asked once more first."""
        if self._run.phase is Phase.REPAIRING:
            return self._repair is not None and self._repair.is_refused
        return self._run.phase is Phase.CAPTURING and self.investigation is not None and self.investigation.is_done

    def abandon(self) -> None:
        """Let go of the incident at hand, as a person wants something else; one that was told is laid by with what was changed."""
        if self._repair is not None and self.investigation is not None:
            self._repair.wait()
            if self._repair.is_done and not self._repair.is_told:
                self._repair.tell()
            self.investigation.note("no longer judged: somebody asked for something else")
            self.investigation.write()
            self._shelf.put(self.investigation)
        self.investigation = self._repair = None

    def forget(self) -> None:
        """Let go of the incident at hand after a fault of ours, which the caller tells; never raises."""
        try:
            self.abandon()
        except Exception as error:  # a second fault must not end the run either; it is said
            self._run.chronicle.complain(f"an incident could not be laid by: {type(error).__name__}: {error}")
            self.investigation = self._repair = None

    def _investigate(self, verdict: Verdict, now: float, *, is_asked_for: bool = False) -> Investigation:
        from unsloth_watch.supervise.incident import Investigation  # noqa: PLC0415 - only for evidence

        run = self._run
        assert run.watch is not None
        taken = [one.number for one in (self.investigation, self.asked_for) if one is not None]
        number = max([*taken, *(incident.number for incident in run.chronicle.record.incidents)], default=0) + 1
        return Investigation(run, run.watch, verdict, now, number=number, is_asked_for=is_asked_for)

    def _conclude_investigation(self, now: float) -> None:
        """Act upon the evidence when it is complete, and the judge has said at this very moment that the job still hangs."""
        run, investigation = self._run, self.investigation
        verdict = run.watch.verdict if run.watch is not None else None
        if investigation is None or not investigation.is_done or verdict is None or verdict.at < now:
            return
        try:
            investigation.announce()
            if run.settings.on_hang == "report":
                investigation.note("watched on: --on-hang report")
            investigation.write()
        except Exception as error:  # a fault of the report is no reason to leave a job hung: it is told
            run.chronicle.event("sensor.degraded", sensor="incident", why=f"no report: {type(error).__name__}: {error}")
        if run.settings.on_hang == "report":
            self._is_reported = True
            self._watch_on()
        elif not self._begin_repair(investigation):
            run.terminate(HANG, now)

    def _put_by(self) -> None:
        """Lay the incident by."""
        assert self.investigation is not None
        self._shelf.put(self.investigation)
        self.investigation = self._repair = None

    def _watch_on(self) -> None:
        """Lay the incident by, and let the attempt go on."""
        self._put_by()
        self._run.enter(Phase.RUNNING)

    # A repair of the living job -------------------------------------------------------------------------------------------------

    def _begin_repair(self, investigation: Investigation) -> bool:
        """Begin the live repair that the evidence allows; return whether there is one."""
        run, repair, fingerprint = self._run, investigation.repair, investigation.diagnosis.fingerprint
        if repair is None or not run.settings.live_repair or not run.relaunch.may_repair(fingerprint, repair.id):
            return False
        from unsloth_watch.supervise.mending import LiveRepair  # noqa: PLC0415 - only for a hang

        try:
            self._repair = LiveRepair(run, investigation, repair)
        except OSError as error:
            investigation.note(f"live repair {repair.id} left: the job could not be listed: {error.strerror or error}")
            return False
        run.relaunch.count_repair(fingerprint)
        run.enter(Phase.REPAIRING)
        return True

    def _conclude_repair(self) -> None:
        """When the repair was made, count silence from there; where nothing could be done, the judge is asked once more."""
        repair, watch = self._repair, self._run.watch
        if repair is None or watch is None or repair.is_told or not repair.is_done:
            return
        if repair.tell():
            watch.renew()

    def _judge_repair(self, *, is_hung: bool, now: float) -> None:
        """Hear the judge about a repaired job: it moved, or it hangs as before."""
        repair, watch = self._repair, self._run.watch
        if repair is None or watch is None or not repair.is_told:
            return
        if repair.is_refused:
            if is_hung:
                self._give_repair_up(now)
            else:  # it moved while that was found out
                self.note("it went on by itself meanwhile: nothing was ended")
                self._settle_repair()
            return
        progress = watch.find_movement()
        if progress is not None:
            self._succeed(repair, progress.detail)
        elif repair.is_holding(self._run.settings.stall_timeout):
            watch.renew()
        elif is_hung and watch.memory.progress is not None:
            # Its echo was heard: that wait has ended, and what came next (a retry, mostly) waits again. It is looked at anew.
            repair.fail("that wait ended by it, and the program came to hang again")
            self._settle_repair()
        elif is_hung:
            repair.fail("the work did not move by it")
            self._give_repair_up(now)

    def _succeed(self, repair: LiveRepair, progress: str) -> None:
        repair.succeed(progress)
        self._settle_repair()

    def _settle_repair(self) -> None:
        """Write down what came of a repair, and let the attempt go on."""
        assert self.investigation is not None
        self.investigation.write()
        self._watch_on()

    def _give_repair_up(self, now: float) -> None:
        self._remember_failed_repair()
        self._run.terminate(HANG, now)

    def _remember_failed_repair(self) -> None:
        assert self._repair is not None
        assert self.investigation is not None
        self._run.relaunch.remember(self.investigation.diagnosis.fingerprint, self._repair.id)
        self._repair = None

    # The attempt's end, and the run's -------------------------------------------------------------------------------------------

    def hear_ending(self, ending: Ending) -> None:
        """Take note that the command ended by itself, while it was judged.

        Args:
            ending: How.
        """
        if self._run.phase is not Phase.REPAIRING:
            self.investigation = None
            return
        repair = self._repair
        assert repair is not None
        repair.wait()
        if repair.is_refused or (not repair.is_told and not repair.tell()):
            repair.fail("the command ended before anything was changed")
            self._repair = None
        elif ending.exit_code == 0 or (ending.exit_code is None and self._run.job.is_attached):
            # A status that only the job's own parent learns counts as good, as where no repair was made.
            self._succeed(repair, f"the command went on to its end, with status {'unknown' if ending.exit_code is None else 0}")
        else:
            # A read that was cut off raises where nobody retries: the hang's next remedy is due, not a crash's.
            repair.fail(f"the command went on and ended with status {ending.exit_code}")
            self._remember_failed_repair()
            self.is_upshot = True

    def compare_with_past(self, investigation: Investigation) -> None:
        """Conclude the incident before, whose remedy the attempt ran with that has now hung as well.

        Args:
            investigation: The incident at hand.
        """
        self._shelf.compare(investigation, self._run.attempt)

    def hand_over(self, attempt: int, pid: int) -> None:
        """Put the incident by once the next attempt was started.

        Args:
            attempt: Its number.
            pid: Its command.
        """
        if self.investigation is not None:
            self.investigation.note(f"attempt {attempt} started as PID {pid}")
            self.investigation.write()
            self._put_by()

    def conclude(self, outcome: str, exit_code: int) -> None:
        """Write down how the run ended, in the incident at hand or in the last one that was mended.

        Args:
            outcome: The run's, in the words of its summary.
            exit_code: Its exit status.
        """
        before = self._shelf.find_mended()
        if self.asked_for is not None:  # what is there of it: its directory was promised
            self.asked_for.announce()
        for investigation in filter(None, (self.asked_for, self.investigation)):
            investigation.write()
            self._shelf.put(investigation)
        self.asked_for = None
        if self.investigation is None and before is not None:
            ended = {"completed": "completed", "failed": f"ended with status {exit_code}"}.get(outcome, f"was {outcome}")
            before.conclude(f"attempt {self._run.attempt} ran with it and {ended}", worked=outcome == "completed" or None)

    def wait(self) -> None:
        """Wait for the reports; at the end of a run."""
        self._shelf.wait()
