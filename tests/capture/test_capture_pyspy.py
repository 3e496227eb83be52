"""py-spy's answers and faults."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsloth_watch.capture.dump import Dump, DumpFailure, Failure, classify_failure, parse_dump
from unsloth_watch.capture.pyspy import dump, find_binary
from unsloth_watch.capture.pystack import parse_text
from unsloth_watch.model.evidence import Frame

# printed by py-spy 0.4.3 --native, shortened
REAL = b"""[{"pid":7,"thread_id":139733945095872,"thread_name":"q","os_thread_id":8,"active":false,"owns_gil":false,"frames":[
{"name":"lock_acquire","filename":"/lib/libpython3.11.so.1.0","module":"/lib/libpython3.11.so.1.0","short_filename":"libpython3.11.so.1.0",
"line":0,"locals":null,"is_entry":true,"is_shim_entry":true},
{"name":"Condition.wait","filename":"/lib/python3.11/threading.py","module":null,"short_filename":"threading.py","line":327,
"locals":[{"name":"timeout","addr":1,"arg":true,"repr":"None"}],"is_entry":false,"is_shim_entry":false}],"process_info":null},
{"pid":7,"thread_id":139733959138176,"thread_name":"MainThread","os_thread_id":7,"active":true,"owns_gil":true,"frames":[
{"name":"<module>","filename":"<string>","module":null,"short_filename":"<string>","line":4,"locals":null}],"process_info":null}]"""


@pytest.mark.quick
def test_a_real_answer_becomes_threads_with_native_and_python_frames():
    answer = parse_dump(REAL, "native")
    assert isinstance(answer, Dump)
    first, main = answer.threads
    assert first.frames[0] == Frame("lock_acquire", "/lib/libpython3.11.so.1.0", 0, is_native=True)
    assert first.frames[1] == Frame("Condition.wait", "/lib/python3.11/threading.py", 327, locals={"timeout": "None"})
    assert (main.tid, main.name, main.has_gil, main.is_active) == (7, "MainThread", True, True)


@pytest.mark.quick
@given(st.data())
def test_a_mutated_answer_never_breaks_the_parser(data):
    raw = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(
            st.sampled_from([b"", b"0", b"-1", b'"', b"null", b"[", b"{}", b"1e999", b"99999999999999999999", b"\xff", b"\\ud800"])
        )
        raw[place : place + data.draw(st.integers(0, 40))] = piece
    answer = parse_dump(bytes(raw), "native")
    assert isinstance(answer, Dump | DumpFailure)
    msgspec.json.encode(answer)  # whatever came in can be written into a report


@pytest.mark.quick
@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["frames", "name", "filename", "line", "os_thread_id"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_an_answer_with_a_frame_or_a_failure(value):
    try:
        raw = msgspec.json.encode(value)
    except msgspec.MsgspecError:
        return
    answer = parse_dump(raw, "plain")
    assert isinstance(answer, DumpFailure) or any(thread.frames for thread in answer.threads)


@pytest.mark.quick
@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'[{"frames": [], "os_thread_id": 1}]', b"Error: no", b"[" * 100_000])
def test_success_needs_a_frame(raw):
    answer = parse_dump(raw, "plain")
    assert isinstance(answer, DumpFailure)
    assert answer.kind is Failure.GARBAGE


@pytest.mark.quick
def test_one_odd_thread_costs_only_itself():
    items = msgspec.json.decode(REAL)
    items[0]["frames"] = "none"
    answer = parse_dump(msgspec.json.encode(items), "plain")
    assert isinstance(answer, Dump)
    assert (len(answer.threads), answer.skipped) == (1, 1)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        (
            "Permission Denied: Try running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'",
            Failure.NO_PERMISSION,
        ),
        ("Error: Failed to get process executable name.\nReason: Permission denied (os error 13)", Failure.NO_PERMISSION),
        ("Error: No such file or directory (os error 2)", Failure.GONE),
        ("Error: Failed to find python version from target process", Failure.NOT_PYTHON),
        ("Error: Failed to suspend process\nReason: ptrace attach gave SIGSTOP", Failure.STOPPED),
        ("Error: Failed to suspend process\nReason: EPERM: Operation not permitted", Failure.TRACED),
        ("thread 'main' panicked", Failure.OTHER),
    ],
)
def test_failures_are_told_by_their_words(stderr, kind):
    assert classify_failure(stderr) is kind


def test_every_mode_reads_a_real_process(start):
    target = start("import time\nsecret = 'x1'\ndef work(n): time.sleep(n)\nprint('ready'); work(500)")
    target.rest()
    for mode in ("plain", "native", "nonblocking"):
        answer = dump(target.pid, mode, 10)
        assert isinstance(answer, Dump), answer
        names = [frame.function for frame in answer.threads[-1].frames if not frame.is_native]
        assert names == ["work", "<module>"]
        assert all(frame.locals is None for frame in answer.threads[-1].frames)


def test_locals_come_only_when_asked_for(start):
    target = start("import time\ndef work(n): time.sleep(n)\nprint('ready'); work(500)")
    target.rest()
    answer = dump(target.pid, "plain", 10, with_locals=True)
    assert isinstance(answer, Dump)
    assert answer.threads[0].frames[0].locals == {"n": "500"}


def test_a_missing_py_spy_is_told_with_the_next_step():
    answer = dump(1, "plain", 5, binary="/nonexistent/py-spy")
    assert isinstance(answer, DumpFailure)
    assert answer.kind is Failure.NO_TOOL
    assert "pip" in answer.message


def test_py_spy_is_found_on_the_path_when_it_is_not_beside_the_interpreter(fake_tool, tmp_path):
    binary = fake_tool("exit 0")
    assert find_binary(executable="/nonexistent/python", path=str(tmp_path)) == binary
    assert find_binary(executable="/nonexistent/python", path="/nonexistent") is None
    assert find_binary(executable=str(tmp_path / "python"), path="/nonexistent") == binary


def test_a_file_that_is_no_program_is_told(tmp_path):
    path = tmp_path / "py-spy"
    path.write_bytes(b"\0\1\2 no program")
    path.chmod(0o755)
    answer = dump(1, "plain", 5, binary=str(path))
    assert isinstance(answer, DumpFailure)
    assert answer.kind is Failure.NO_TOOL


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("echo nonsense", Failure.GARBAGE),
        ("echo '[]'", Failure.GARBAGE),
        ('echo \'[{"frames": [{"name": "f", "filename": "x.py"}]}]\'; exit 1', Failure.OTHER),
        ("kill -SEGV $$", Failure.OTHER),
    ],
)
def test_a_faulty_py_spy_is_a_failure_and_not_a_stack(fake_tool, body, kind):
    answer = dump(1, "plain", 10, binary=fake_tool(body))
    assert isinstance(answer, DumpFailure)
    assert answer.kind is kind


def test_a_py_spy_that_blocks_is_killed(fake_tool):
    answer = dump(1, "plain", 0.3, binary=fake_tool("exec sleep 500"))
    assert isinstance(answer, DumpFailure)
    assert answer.kind is Failure.LATE
    assert answer.was_killed


def test_a_backtrace_setting_of_the_user_does_not_hide_the_reason(monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "full")
    answer = dump(999999999, "plain", 10)
    assert isinstance(answer, DumpFailure)
    assert answer.kind is Failure.GONE
    assert "backtrace" not in answer.message


# printed by pystack 1.x --native-all, shortened
PYSTACK = """Traceback for thread 12457 (python3) [Has the GIL] (most recent call last):
    (C) File "./nptl/pthread_create.c", line 442, in start_thread (/usr/lib/x86_64-linux-gnu/libc.so.6)
    (Python) File "/lib/python3.11/queue.py", line 171, in get
        self.not_empty.wait()
      Arguments:
        timeout: None
    (C) File "./nptl/futex-internal.c", line 57, in __futex_abstimed_wait_common64 (inlined) (/usr/lib/x86_64-linux-gnu/libc.so.6)

Traceback for thread 12415 (python3) [] (most recent call last):
    (C) File "???", line 0, in _start (/usr/bin/python3.11)
"""


@pytest.mark.quick
def test_what_pystack_prints_becomes_threads_innermost_first():
    answer = parse_text(PYSTACK)
    assert isinstance(answer, Dump)
    first, second = answer.threads
    assert [frame.function for frame in first.frames] == ["__futex_abstimed_wait_common64 (inlined)", "get", "start_thread"]
    assert first.frames[0].file == "/usr/lib/x86_64-linux-gnu/libc.so.6"
    assert (first.tid, first.has_gil, second.has_gil) == (12457, True, False)
    assert isinstance(parse_text("💀 Engine error 💀"), DumpFailure)


@pytest.mark.quick
@given(st.text(max_size=300), st.integers(0, len(PYSTACK)))
def test_no_text_breaks_the_parser_of_pystack(text, cut):
    parse_text(text)
    parse_text(PYSTACK[:cut] + text + PYSTACK[cut:])
