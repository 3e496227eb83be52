"""Whether stacks will be there when they are needed: asked once, beside the running command, and said at once if not."""

from __future__ import annotations

from unsloth_watch.supervise.chronicle import Chronicle
from unsloth_watch.supervise.worker import Task


class TraceCheck:
    """Dumps a dummy child in the way in which the job would be dumped: 45 ms of work in a thread of its own, once a run.

    Args:
        wake_fd: Written to when the answer is there.
    """

    def __init__(self, wake_fd: int) -> None:
        from unsloth_watch.capture.permission import check_trace  # noqa: PLC0415 - not for a command that has ended by now

        self._task: Task[str | None] | None = Task(check_trace, wake_fd)

    def tell(self, chronicle: Chronicle) -> None:
        """Say what the check found, once; nothing where all is well or it is not done yet."""
        if self._task is None or not self._task.is_done:
            return
        task, self._task = self._task, None
        try:
            problem = task.result()
        except Exception as error:  # the check is a courtesy: the run goes on without it, and its fault is said
            problem = f"whether stacks can be read could not be found out: {type(error).__name__}: {error}"
        if problem is not None:
            chronicle.event("sensor.degraded", sensor="stacks", why=problem)
            chronicle.complain(problem)
