"""Starting the real program on real commands, and reading what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from unsloth_watch.tell.events import read_events

PROGRAM = [sys.executable, "-m", "unsloth_watch"]


class Watched:
    """A place to run commands under supervision.

    Args:
        place: An empty directory; commands run in it, records go to ``run`` in it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "run"

    def script(self, text: str, name: str = "job.py") -> str:
        """Write a Python program and return its path."""
        path = self.place / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    def environment(self, **more: str) -> dict[str, str]:
        """The test's own environment without what would change buffering."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return {**environment, "XDG_STATE_HOME": str(self.place / "state"), "XDG_CACHE_HOME": str(self.place / "cache"), **more}

    def start(self, *words: str, options: tuple[str, ...] = (), **keywords: Any) -> subprocess.Popen[bytes]:
        """Start a command under supervision, by the real program or one that stands for it."""
        program = keywords.pop("program", PROGRAM)
        keywords.setdefault("env", self.environment())
        keywords.setdefault("stdin", subprocess.DEVNULL)
        command = [*program, "--run-dir", str(self.directory), *options, "--", *words]
        return subprocess.Popen(command, cwd=self.place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)

    def run(self, *words: str, options: tuple[str, ...] = (), timeout: float = 100, **keywords: Any) -> tuple[int, bytes, bytes]:
        """Run a command under supervision to its end; return status, output and error output."""
        given = keywords.pop("given", None)
        if given is not None:
            keywords["stdin"] = subprocess.PIPE
        with self.start(*words, options=options, **keywords) as process:
            try:
                out, err = process.communicate(given, timeout=timeout)
            finally:
                process.kill()
        return process.returncode, out, err

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events of the run so far, all or those of one name."""
        if not (self.directory / "events.jsonl").exists():
            return []
        return [event for event in read_events(str(self.directory / "events.jsonl")) if name in (None, event["event"])]

    def summary(self) -> dict[str, Any]:
        """Return run.json."""
        summary: dict[str, Any] = json.loads((self.directory / "run.json").read_text())
        return summary
