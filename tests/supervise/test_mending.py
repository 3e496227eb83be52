"""The whole program mends real hangs: live where the cause allows it, else by a relaunch, and it knows when to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from namespaces import require_unshare
from waiting import until
from watched import PROGRAM, Watched

QUICK = ("--stall-timeout", "3s", "--busy-timeout", "60s", "--grace", "1s", "--interval", "0.25s")


def names(watched: Watched) -> list[str]:
    return [event["event"] for event in watched.events()]


def remedies(watched: Watched, number: int = 1) -> list[dict[str, Any]]:
    """Return the remedies that an incident's report says were tried."""
    report = json.loads((watched.directory / "incidents" / f"{number:02d}" / "report.json").read_text())
    return [remedy for remedy in report["remedies"] if remedy["result"]]


STOPPED = """
    import os, signal, time
    for step in range(1, 9):
        print(f"step {step}/8 loss 1.0", flush=True)
        time.sleep(0.2)
        if step == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_job_goes_on_and_no_step_is_done_twice(watched: Watched) -> None:
    status, out, err = watched.run(sys.executable, watched.script(STOPPED), options=QUICK)
    assert status == 0, err
    assert out.decode().splitlines() == [f"step {step}/8 loss 1.0" for step in range(1, 9)]
    told = names(watched)
    assert (
        told.index("hang.detected") < told.index("incident.captured") < told.index("remedy.applied") < told.index("hang.repaired")
    )
    assert "attempt.terminating" not in told
    (repaired,) = watched.events("hang.repaired")
    assert (repaired["cause"], repaired["remedy"], repaired["attempt"]) == ("process-stopped", "continue-process", 1)
    assert "5 of 8" in repaired["progress"] or "step" in repaired["progress"]
    (applied,) = watched.events("remedy.applied")
    assert applied["kind"] == "live"
    assert applied["undo"].startswith("kill -STOP")
    assert [(one["id"], one["applied"], one["worked"]) for one in remedies(watched)] == [("continue-process", True, True)]
    # What was done is not asked for again.
    assert json.loads((watched.directory / "incidents" / "01" / "report.json").read_text())["next_steps"] == []
    (incident,) = watched.summary()["incidents"]
    assert [(one["id"], one["worked"]) for one in incident["remedies"]] == [("continue-process", True)]


def test_without_live_repair_it_is_relaunched(watched: Watched) -> None:
    script = watched.script(STOPPED.replace("if step == 4", "if step == 4 and os.environ['UNSLOTH_WATCH_ATTEMPT'] == '1'"))
    status, _, err = watched.run(sys.executable, script, options=(*QUICK, "--no-live-repair"))
    assert status == 0, err
    assert "hang.repaired" not in names(watched)
    assert len(watched.events("attempt.started")) == 2
    assert [(one["id"], one["worked"]) for one in remedies(watched)] == [("relaunch", True)]


def test_a_repair_in_vain_is_made_once_and_the_relaunch_follows(watched: Watched) -> None:
    script = watched.script(
        """
        import os, signal
        print("at work", flush=True)
        while os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
        """
    )
    status, _, err = watched.run(sys.executable, script, options=QUICK)
    assert status == 0, err
    assert [event["remedy"] for event in watched.events("remedy.applied")] == ["continue-process"]
    assert "hang.repaired" not in names(watched)
    assert [(one["id"], one["worked"]) for one in remedies(watched)] == [("continue-process", False), ("relaunch", True)]
    assert len(watched.events("attempt.started")) == 2


def test_with_on_hang_report_nothing_is_touched(watched: Watched) -> None:
    with watched.start(sys.executable, watched.script(STOPPED), options=(*QUICK, "--on-hang", "report")) as process:
        until(lambda: watched.events("incident.captured"), seconds=60)
        pid = watched.events("attempt.started")[0]["pid"]
        os.kill(pid, signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert "remedy.applied" not in names(watched)


def test_a_forgotten_pipe_gets_room_and_its_reader_every_byte(watched: Watched) -> None:
    script = watched.script(
        """
        import subprocess, sys
        pour = "for n in range(400_000): print('%09d' % n)"
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", pour], stdout=subprocess.PIPE)
        print("converting", flush=True)
        child.wait()
        assert child.stdout.read() == b"".join(b"%09d\\n" % n for n in range(400_000))
        print("whole", flush=True)
        """
    )
    status, out, err = watched.run(sys.executable, script, options=(*QUICK, "--stall-timeout", "6s"))
    assert status == 0, err
    assert out.endswith(b"whole\n")
    (applied,) = watched.events("remedy.applied")
    assert applied["remedy"] == "relieve-pipe"
    assert len(watched.events("hang.repaired")) == 1
    assert (watched.directory / "incidents" / "01" / "kept").is_dir()


def test_a_reader_that_is_held_still_while_bytes_are_kept_is_not_taken_for_stopped(watched: Watched) -> None:
    """The writer goes on for longer than the stall timeout: the reader's stop is ours, and proves nothing."""
    script = watched.script(
        """
        import subprocess, sys
        pour = "import time\\n" \
            "for n in range(400_000):\\n" \
            "    print('%09d' % n)\\n" \
            "    if n > 200_000 and n % 2_000 == 0: time.sleep(0.1)\\n"
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", pour], stdout=subprocess.PIPE)
        print("converting", flush=True)
        child.wait()
        assert child.stdout.read() == b"".join(b"%09d\\n" % n for n in range(400_000))
        print("whole", flush=True)
        """
    )
    status, out, err = watched.run(sys.executable, script, options=QUICK)
    assert status == 0, err
    assert out.endswith(b"whole\n")
    assert len(watched.events("hang.detected")) == 1


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that takes every request and answers none."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                clients.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for client in clients:
        client.close()


def test_a_silent_server_is_given_up_for_the_librarys_own_retry(watched: Watched, silent: int) -> None:
    script = watched.script(
        """
        import sys, urllib.request
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/model").read()
        except OSError as error:
            print("from the cache instead", flush=True)
        """
    )
    status, out, err = watched.run(sys.executable, script, str(silent), options=QUICK)
    assert (status, out) == (0, b"from the cache instead\n"), err
    (repaired,) = watched.events("hang.repaired")
    assert repaired["remedy"] == "shut-down-connection"
    assert len(watched.events("attempt.started")) == 1


def test_a_read_without_a_retry_fails_and_the_hangs_own_ladder_goes_on(watched: Watched, silent: int) -> None:
    """The cut-off read raises: that is the hang's end and no crash of its own, so that it is relaunched by its remedies."""
    script = watched.script(
        """
        import os, sys, urllib.request
        print("loading", flush=True)
        if os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1":
            urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/model").read()
        """
    )
    status, _, err = watched.run(sys.executable, script, str(silent), options=QUICK)
    assert status == 0, err
    first = watched.events("attempt.finished")[0]
    assert (first["exit_code"], first["reason"]) == (1, "hang")
    tried = {one["id"]: one["worked"] for one in remedies(watched)}
    assert tried["shut-down-connection"] is False


def test_the_same_hang_after_all_remedies_ends_the_run_and_the_report_says_what_was_tried(watched: Watched, silent: int) -> None:
    script = watched.script(
        """
        import sys, urllib.request
        print("loading", flush=True)
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/model").read()
        """
    )
    status, _, err = watched.run(sys.executable, script, str(silent), options=QUICK)
    assert status == 124, err
    assert len(watched.events("attempt.started")) == 2
    # The second time the repair was known to be in vain.
    assert [event["remedy"] for event in watched.events("remedy.applied")] == ["shut-down-connection"]
    (refused,) = watched.events("restart.refused")
    assert "shut-down-connection, relaunch" in refused["why"]
    first, second = (incident["remedies"] for incident in watched.summary()["incidents"])
    assert [(one["id"], one["worked"]) for one in first] == [("shut-down-connection", False), ("relaunch", False)]
    assert second == []


def test_a_question_that_nobody_answers_gets_an_empty_input_at_the_next_attempt(watched: Watched) -> None:
    script = watched.script(
        """
        try:
            answer = input("Continue? [y/N] ")
        except EOFError:
            answer = "n"
        print("answer", answer, flush=True)
        """
    )
    # The write end stays open: somebody could answer, and nobody does.
    with watched.start(sys.executable, script, options=QUICK, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        process.wait(60)
    assert process.returncode == 0
    assert b"answer n" in out
    assert [event["target"] for event in watched.events("remedy.applied")] == ["standard input"]
    assert [(one["id"], one["worked"]) for one in remedies(watched)] == [("stdin-null", True)]


def test_an_earlier_run_with_the_same_hang_is_named_in_the_report(watched: Watched) -> None:
    script = watched.script(STOPPED)
    for run in ("earlier", "later"):
        watched.directory = watched.place / "runs" / run
        watched.run(sys.executable, script, options=QUICK)
    report = json.loads((watched.directory / "incidents" / "01" / "report.json").read_text())
    (previous,) = report["previous"]
    assert (previous["run"], previous["incident"], previous["cause"]) == ("earlier", 1, "process-stopped")
    assert previous["outcome"] == "mended by continue-process"


CRASHING = """
    import os, sys
    if os.environ["UNSLOTH_WATCH_ATTEMPT"] == "1":
        raise {error}
    print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("error", "attempts", "status"),
    [
        ("ConnectionResetError('peer')", 2, 0),
        ("RuntimeError('something odd')", 2, 0),
        ("RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", 1, 1),
        ("FileNotFoundError(2, 'No such file', 'train.jsonl')", 1, 1),
    ],
)
def test_a_crash_is_tried_again_where_it_may_pass(watched: Watched, error: str, attempts: int, status: int) -> None:
    script = watched.script(CRASHING.format(error=error))
    code, _, err = watched.run(sys.executable, script, options=(*QUICK, "--restart-on", "hang,crash"))
    assert code == status, err
    assert len(watched.events("attempt.started")) == attempts


def test_crashes_that_may_pass_end_at_the_limit_with_a_status_of_its_own(watched: Watched) -> None:
    script = watched.script("raise ConnectionResetError('peer')")
    options = (*QUICK, "--restart-on", "hang,crash", "--max-restarts", "1")
    code, _, _ = watched.run(sys.executable, script, options=options)
    assert code == 75
    assert len(watched.events("attempt.started")) == 2


BATON = """
import os, time

class FileBaton:
    def __init__(self, lock_file_path):
        self.lock_file_path = lock_file_path

    def try_acquire(self):
        try:
            self.fd = os.open(self.lock_file_path, os.O_CREAT | os.O_EXCL)
            return True
        except FileExistsError:
            return False

    def wait(self):
        while os.path.exists(self.lock_file_path):
            time.sleep(0.1)
"""


def build(watched: Watched) -> tuple[str, Path]:
    """Return a program that builds below a lock of torch's, and that lock, which a killed build left."""
    library = watched.place / "site-packages" / "torch" / "utils" / "file_baton.py"  # torch's own text, where torch has it
    library.parent.mkdir(parents=True)
    library.write_text(BATON)
    lock = watched.place / "fused" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (1e9, 1e9))
    script = watched.script(f"""
        import sys
        sys.path.insert(0, {str(library.parents[2])!r})
        from torch.utils.file_baton import FileBaton
        baton = FileBaton({str(lock)!r})
        if not baton.try_acquire():
            baton.wait()
        print("built", flush=True)
    """)
    return script, lock


def test_a_remedy_on_a_read_only_file_system_is_refused_and_said_and_no_attempt_is_wasted(watched: Watched) -> None:
    script, lock = build(watched)
    setting = f'mount --bind {lock.parent} {lock.parent}; mount -o remount,ro,bind {lock.parent}; exec "$@"'
    program = [*require_unshare("--mount", "--propagation", "private"), "sh", "-ec", setting, "sh", *PROGRAM]
    status, _, err = watched.run(sys.executable, script, options=QUICK, program=program)
    assert status == 124, err
    assert lock.stat().st_mtime == 1e9
    assert watched.events("remedy.applied") == []
    assert len(watched.events("attempt.started")) == 1
    assert b"remedy quarantine-lock-file: " in err
    assert b"Read-only file system" in err
    (refused,) = watched.events("restart.refused")
    assert "came back" not in refused["why"]  # nothing was tried


def test_what_a_run_in_a_directory_of_its_own_moved_aside_is_listed_and_comes_back(watched: Watched) -> None:
    script, lock = build(watched)
    status, out, err = watched.run(sys.executable, script, options=QUICK)
    assert (status, out) == (0, b"built\n"), err
    assert [event["target"] for event in watched.events("remedy.applied")] == [str(lock)]
    cache = [*PROGRAM, "cache"]
    where = {"cwd": watched.place, "env": watched.environment()}
    (found,) = json.loads(subprocess.run([*cache, "list", "--json"], capture_output=True, check=True, **where).stdout)[
        "quarantines"
    ]
    assert (found["path"], found["originals"]) == (str(watched.directory / "quarantine"), [str(lock)])
    lock.unlink(missing_ok=True)  # the second attempt made its own
    subprocess.run([*cache, "repair", "--restore", found["id"]], check=True, **where)
    assert lock.stat().st_mtime == 1e9
    listed = subprocess.run([*cache, "list", "--json"], capture_output=True, check=True, **where)
    assert json.loads(listed.stdout)["quarantines"] == []


SAVER = """
    import time
    from pathlib import Path

    def wait_for_mount(path):
        while not path.is_dir():
            time.sleep(0.1)

    for step in range(1, 5):
        print(f"step {{step}}/8 loss 1.0", flush=True)
    wait_for_mount(Path("{name}"))
    print("saved", flush=True)
"""


def test_a_saver_gets_the_directory_that_it_waits_for_without_a_kill(watched: Watched) -> None:
    # Two looks and the evidence have to show the loop before anything is made.
    options = (*QUICK, "--stall-timeout", "9s")
    status, out, err = watched.run(sys.executable, watched.script(SAVER.format(name="checkpoints")), options=options)
    assert (status, out.endswith(b"saved\n")) == (0, True), err
    (applied,) = watched.events("remedy.applied")
    assert (applied["remedy"], applied["undo"]) == ("make-directory", f"rmdir {watched.place / 'checkpoints'}")
    assert len(watched.events("hang.repaired")) == 1
    assert len(watched.events("attempt.started")) == 1


def test_a_directory_to_read_from_is_never_made(watched: Watched) -> None:
    script = watched.script(SAVER.format(name="dataset"))
    status, _, err = watched.run(sys.executable, script, options=(*QUICK, "--on-hang", "stop"))
    assert status == 124, err
    assert watched.events("remedy.applied") == []
    assert not (watched.place / "dataset").exists()
    (found,) = watched.events("hang.detected")
    assert found["culprit"]["path"] == str(watched.place / "dataset")  # the report says what does not come
