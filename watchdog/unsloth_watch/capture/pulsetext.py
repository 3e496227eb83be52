"""The text of a pulse: an endless loop that sleeps, prints, writes or runs a measuring tool, and does nothing else.

It may call only what is listed here. The one condition that it may have is an event of its own process by which it is told to end,
and by whose ``wait`` it sleeps: only a thread of that process can set it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_MODULES = {
    "time": {"sleep", "time", "monotonic", "perf_counter", "time_ns", "strftime", "localtime", "gmtime", "ctime"},
    "json": {"dumps"},
    "os": {"getloadavg", "getpid", "getppid", "times", "cpu_count"},
    "psutil": {"cpu_percent", "virtual_memory", "swap_memory", "disk_usage"},
    "resource": {"getrusage"},
    "itertools": {"cycle", "count"},
    "subprocess": set(),
}
"""Functions of modules that a pulse may call."""
_BUILTINS = {"print", "open", "int", "float", "str", "repr", "round", "len", "format", "abs", "min", "max", "sum"}
_METHODS = {
    *("write_text", "write_bytes", "touch", "read_text", "open"),
    *("split", "strip", "rstrip", "splitlines", "format", "encode", "decode", "isoformat"),
}
# Methods of paths, texts and times, by names that hardly anything else has.
_RUNS = {"subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
_TOOLS = {"nvidia-smi", "rocm-smi", "amd-smi", "xpu-smi", "sensors"} | {"free", "vmstat", "uptime", "df", "ps", "uname"}
"""Programs that measure and report, which a pulse may run with arguments that never change."""
_RUN_OPTIONS = {"stdin", "stdout", "stderr", "check", "text", "capture_output", "timeout", "encoding", "universal_newlines"}
_RUN_VALUES = {"subprocess.DEVNULL", "subprocess.PIPE", "subprocess.STDOUT"}
_FILE_METHODS = {"write", "writelines", "flush", "read", "readline"}
# Methods that count only of what is certainly a file: a buffer of the program's own may tell somebody when it is flushed at last.
_STATEMENTS = (ast.Expr, ast.Assign, ast.AugAssign, ast.With)
_EXPRESSIONS = (
    *(ast.Call, ast.Constant, ast.Name, ast.Attribute, ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.UnaryOp, ast.Subscript),
    *(ast.Tuple, ast.List, ast.Dict, ast.Slice, ast.keyword, ast.operator, ast.unaryop, ast.expr_context, ast.withitem),
)


def is_pulse(tree: ast.Module, line: int, *, is_event: bool = False) -> bool:
    """Whether a line sleeps in an endless loop that does nothing but sleep and tell.

    Args:
        tree: The module.
        line: Where the thread sleeps.
        is_event: Whether it sleeps by the ``wait`` of an event of its process; else by ``time.sleep``.
    """
    loop = None
    for node in ast.walk(tree):
        if isinstance(node, ast.While | ast.For) and node.lineno <= line <= (node.end_lineno or 0):
            loop = node if loop is None or node.lineno > loop.lineno else loop
    if loop is None or loop.orelse:
        return False
    sleep = next((one for one in loop.body if one.lineno <= line <= (one.end_lineno or 0)), None)
    names = _Names(tree)
    if not is_event:
        call = sleep.value if isinstance(sleep, ast.Expr) else None
        is_sleep = isinstance(call, ast.Call) and ast.unparse(call.func) == "time.sleep"
        head = [loop.iter] if isinstance(loop, ast.For) else []
        return _is_endless(loop) and is_sleep and all(names.is_plain(part) for part in (*head, *loop.body))
    return _is_told_to_end(loop, sleep, names)


def _is_told_to_end(loop: ast.While | ast.For, sleep: ast.stmt | None, names: _Names) -> bool:
    """Whether a loop sleeps by an event's ``wait`` alone and lasts until that event is set, while it sleeps and tells."""
    call = _find_wait(loop, sleep)
    if call is None or not isinstance(call.func, ast.Attribute):
        return False
    event = ast.unparse(call.func.value)
    until_set = (f"not {event}.is_set()", f"not {ast.unparse(call)}")
    if not _is_endless(loop) and not (isinstance(loop, ast.While) and ast.unparse(loop.test) in until_set):
        return False
    changed = {node.id for node in ast.walk(loop) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if event.partition(".")[0] in changed:
        return False
    head = [loop.iter] if isinstance(loop, ast.For) else []
    return all(names.is_plain(part) for part in (*head, *call.args, *(one for one in loop.body if one is not sleep)))


def _find_wait(loop: ast.While | ast.For, sleep: ast.stmt | None) -> ast.Call | None:
    """Return the call by which a loop sleeps: ``stop.wait(5)`` by itself, before a ``break``, or in its head; None for others."""
    call: ast.expr | None = None
    if sleep is None and isinstance(loop, ast.While) and isinstance(loop.test, ast.UnaryOp) and isinstance(loop.test.op, ast.Not):
        call = loop.test.operand
    elif isinstance(sleep, ast.Expr):
        call = sleep.value
    elif isinstance(sleep, ast.If) and not sleep.orelse and all(_is_end(one) for one in sleep.body):
        call = sleep.test
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "wait":
        return None
    owner = call.func.value
    while isinstance(owner, ast.Attribute):
        owner = owner.value
    return call if isinstance(owner, ast.Name) and len(call.args) == 1 and not call.keywords else None


def _is_end(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Break) or (isinstance(statement, ast.Return) and statement.value is None)


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
        if _has_stream_of_its_own(tree):
            # Whoever takes the output's place hears what is printed, and may tell somebody.
            self._builtins -= {"print"}
            self._streams = set()

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
            elif not isinstance(node, _EXPRESSIONS) or (isinstance(node, ast.Call) and not self._is_allowed(node, files)):
                return False
        return True

    def _is_allowed(self, call: ast.Call, files: set[str]) -> bool:
        places = [ast.unparse(option.value) for option in call.keywords if option.arg == "file"]
        if any(place not in self._streams | files for place in places):
            return False  # ``print(…, file=anybody)``
        return self._is_listed(call.func, files) or self._is_tool(call)

    def _is_tool(self, call: ast.Call) -> bool:
        """Whether a call runs a measuring tool, the same each time, and waits for its end."""
        if "subprocess" not in self._modules or ast.unparse(call.func) not in _RUNS or len(call.args) != 1:
            return False
        words = call.args[0].elts if isinstance(call.args[0], ast.List) else []
        texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        is_plain = all(
            option.arg in _RUN_OPTIONS and (isinstance(option.value, ast.Constant) or ast.unparse(option.value) in _RUN_VALUES)
            for option in call.keywords
        )
        return bool(texts) and len(texts) == len(words) and texts[0].rpartition("/")[2] in _TOOLS and is_plain

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


def _has_stream_of_its_own(tree: ast.Module) -> bool:
    """Whether a module puts anything in the place of standard output or error: ``sys.stdout = Tee()``, ``redirect_stdout(tee)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in ("stdout", "stderr", "write"):
            return True
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name in ("redirect_stdout", "redirect_stderr"):
            return True
    return False


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
