"""Pulses: threads of the program whose own text shows that they sleep, print or write something, and sleep again, for ever.

"Alive" printers, heartbeat files and memory logs share the memory of whoever hangs, so that nothing but their text can clear them.
The loop must be endless and without any condition, and may call only what is listed here. What one round of it does, every round
does: that it woke nobody in the rounds that were seen is then true of all to come.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence

import msgspec

from unsloth_watch.capture.source import MAX_FILE_BYTES
from unsloth_watch.capture.text import decode
from unsloth_watch.capture.waits import read_file
from unsloth_watch.model.evidence import Frame, ProcessEvidence, ThreadEvidence

_MODULES = {
    "time": {"sleep", "time", "monotonic", "perf_counter", "time_ns", "strftime", "localtime", "gmtime", "ctime"},
    "json": {"dumps"},
    "os": {"getloadavg", "getpid", "getppid", "times", "cpu_count"},
    "psutil": {"cpu_percent", "virtual_memory", "swap_memory", "disk_usage"},
    "resource": {"getrusage"},
    "itertools": {"cycle", "count"},
}
"""Functions of modules that a pulse may call."""
_BUILTINS = {"print", "open", "int", "float", "str", "repr", "round", "len", "format", "abs", "min", "max", "sum"}
_METHODS = {
    *("write_text", "write_bytes", "touch", "read_text", "open"),
    *("split", "strip", "rstrip", "splitlines", "format", "encode", "decode", "isoformat"),
}
# Methods of paths, texts and times, by names that hardly anything else has.
_FILE_METHODS = {"write", "writelines", "flush", "read", "readline"}
# Methods that count only of what is certainly a file: a buffer of the program's own may tell somebody when it is flushed at last.
_STATEMENTS = (ast.Expr, ast.Assign, ast.AugAssign, ast.With)
_EXPRESSIONS = (
    *(ast.Call, ast.Constant, ast.Name, ast.Attribute, ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.UnaryOp, ast.Subscript),
    *(ast.Tuple, ast.List, ast.Dict, ast.Slice, ast.keyword, ast.operator, ast.unaryop, ast.expr_context, ast.withitem),
)
_THREAD_FRAMES = ("run", "_bootstrap_inner", "_bootstrap")
_LATEST_S = 1.0
# A script may be written in the same second in which it is started, and start times are rounded.


def mark_pulses(processes: Sequence[ProcessEvidence]) -> tuple[ProcessEvidence, ...]:
    """Return the processes with their pulses marked; it reads the sources of sleeping threads, so call it within a deadline."""
    trees: dict[str, ast.Module | None] = {}
    return tuple(
        msgspec.structs.replace(process, threads=tuple(_mark(thread, process, trees) for thread in process.threads))
        if any(_may_be_pulse(thread) for thread in process.threads)
        else process
        for process in processes
    )


def _mark(thread: ThreadEvidence, process: ProcessEvidence, trees: dict[str, ast.Module | None]) -> ThreadEvidence:
    if not _may_be_pulse(thread):
        return thread
    frame = thread.frames[0]
    if frame.file not in trees:
        trees[frame.file] = read_tree(frame.file, process.ref.start_ticks)
    tree = trees[frame.file]
    return thread if tree is None or not is_pulse(tree, frame.line) else msgspec.structs.replace(thread, is_pulse=True)


def _may_be_pulse(thread: ThreadEvidence) -> bool:
    """Whether a thread sleeps in the function that it was started with: there is nowhere else to go back to."""
    frames = [frame for frame in thread.frames if not frame.is_native]
    if thread.is_main or len(frames) != 1 + len(_THREAD_FRAMES) or not frames[0].file.startswith("/"):
        return False
    return all(_is_thread_frame(frame, name) for frame, name in zip(frames[1:], _THREAD_FRAMES, strict=True))


def _is_thread_frame(frame: Frame, name: str) -> bool:
    return frame.file.endswith("/threading.py") and frame.function.rpartition(".")[2] == name


def read_tree(path: str, start_ticks: int) -> ast.Module | None:
    """Return a source file's syntax tree; None where it cannot be read, or changed after the process had started."""
    try:
        boot = next(int(line.split()[1]) for line in decode(read_file("/proc/stat")).splitlines() if line.startswith("btime "))
        if os.stat(path).st_mtime > boot + start_ticks / os.sysconf("SC_CLK_TCK") + _LATEST_S:
            return None
        with open(path, "rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        return ast.parse(raw) if len(raw) <= MAX_FILE_BYTES else None
    except (OSError, SyntaxError, ValueError, RecursionError, StopIteration):
        return None


def is_pulse(tree: ast.Module, line: int) -> bool:
    """Whether a line is a ``time.sleep`` in an endless loop that does nothing but sleep and tell."""
    loop = None
    for node in ast.walk(tree):
        if isinstance(node, ast.While | ast.For) and node.lineno < line <= (node.end_lineno or 0):
            loop = node if loop is None or node.lineno > loop.lineno else loop
    if loop is None or loop.orelse or not _is_endless(loop):
        return False
    names = _Names(tree)
    at_line = next((one for one in loop.body if one.lineno <= line <= (one.end_lineno or 0)), None)
    call = at_line.value if isinstance(at_line, ast.Expr) else None
    is_sleep = isinstance(call, ast.Call) and ast.unparse(call.func) == "time.sleep"
    head = [loop.iter] if isinstance(loop, ast.For) else []
    return is_sleep and all(names.is_plain(part) for part in (*head, *loop.body))


def _is_endless(loop: ast.While | ast.For) -> bool:
    if isinstance(loop, ast.While):
        return isinstance(loop.test, ast.Constant) and bool(loop.test.value)
    is_call = isinstance(loop.iter, ast.Call) and ast.unparse(loop.iter.func) in ("itertools.cycle", "itertools.count")
    return is_call and isinstance(loop.target, ast.Name)


class _Names:
    """What the names of a module mean, as far as a pulse may use them.

    Args:
        tree: The module.
    """

    def __init__(self, tree: ast.Module) -> None:
        bound = list(_list_bound(tree))
        imported = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names if not alias.asname]
        self._modules = {name for name in imported if name in _MODULES and bound.count(name) == 1}
        self._builtins = _BUILTINS - set(bound)
        self._streams = {"sys.stdout", "sys.stderr"} if "sys" in imported and bound.count("sys") == 1 else set()

    def is_plain(self, part: ast.AST) -> bool:
        """Whether a statement has no condition and calls only what is listed."""
        withs = [item for node in ast.walk(part) if isinstance(node, ast.With) for item in node.items]
        files = {item.optional_vars.id for item in withs if isinstance(item.optional_vars, ast.Name)}
        if any(not isinstance(item.context_expr, ast.Call) or not self._is_open(item.context_expr) for item in withs):
            return False
        for node in ast.walk(part):
            if isinstance(node, ast.stmt):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
                if not isinstance(node, _STATEMENTS) or not all(isinstance(target, ast.Name) for target in targets):
                    return False
            elif not isinstance(node, _EXPRESSIONS) or (isinstance(node, ast.Call) and not self._is_listed(node.func, files)):
                return False
        return True

    def _is_open(self, call: ast.Call) -> bool:
        """Whether a call opens a file: ``open(…)`` or ``path.open(…)``."""
        if isinstance(call.func, ast.Name):
            return call.func.id == "open" and "open" in self._builtins
        return isinstance(call.func, ast.Attribute) and call.func.attr == "open"

    def _is_listed(self, function: ast.expr, files: set[str]) -> bool:
        if isinstance(function, ast.Name):
            return function.id in self._builtins
        if not isinstance(function, ast.Attribute):
            return False
        if isinstance(function.value, ast.Name) and function.value.id in _MODULES:
            return function.value.id in self._modules and function.attr in _MODULES[function.value.id]
        if function.attr in _FILE_METHODS:
            owner = function.value
            is_file = isinstance(owner, ast.Call) and self._is_open(owner)
            return is_file or (isinstance(owner, ast.Name) and owner.id in files) or ast.unparse(owner) in self._streams
        return function.attr in _METHODS


def _list_bound(tree: ast.Module) -> Iterator[str]:
    """Yield every name that is bound anywhere in a module, once for each binding."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
