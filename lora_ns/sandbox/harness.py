"""Running a program and its tests, in the process of the program, and reporting what passed.

The program shares this process and could change anything in it. So the token that makes a report valid is in a pipe of
the kernel until the last test has ended, not in memory; built-in functions are copied before the program runs; and a
value that equals everything fails a test.
"""

from __future__ import annotations

import _ast
import builtins
import os
import sys
from types import CodeType, ModuleType

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

# The functions of this module use them, whatever the program replaces.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

TOKEN_BYTES = 32

LONGEST = 400
"""Maximum characters of an exception's text in a report."""

EQUAL = "__lorans_equal__"
"""Name of `equal` in tests, which stands for `==`."""


def run(code: str, tests: Sequence[str], token: int, report: int) -> None:
    """Run a program and its tests, write the report, and end the process.

    Args:
        code: the program.
        tests: code that runs after it, each in the program's names.
        token: descriptor that the token is read from at the end.
        report: descriptor that the report is written to.
    """
    end, read, write, number, flush, own = os._exit, os.read, os.write, os.getpid, _flush, os.getpid()
    lines = _lines(code, tests)
    flush()
    if number() != own:  # a child of the program came here, too
        end(0)
    try:
        write(report, read(token, TOKEN_BYTES) + "".join(lines).encode("utf-8", "backslashreplace"))
    finally:
        end(0)


def _lines(code: str, tests: Sequence[str]) -> list[str]:
    """A line for the program, and one for each test: `ok`, or the kind of failure and its text."""
    pristine = dict(vars(builtins))
    module = ModuleType("solution")
    sys.modules["solution"] = module
    tried = [_try(lambda: compile(code, "solution.py", "exec"), vars(module))]
    if tried == ["ok\n"]:
        names = {**vars(module), "__builtins__": pristine, EQUAL: equal}
        tried += [_try(_guarded(test), names) for test in tests]
    return tried


def _guarded(test: str) -> Callable[[], CodeType]:
    """A function that compiles a test whose comparisons are made by `equal`."""

    def compiled() -> CodeType:
        tree: Any = compile(test, "test.py", "exec", _ast.PyCF_ONLY_AST)
        _replace(tree)
        code: CodeType = compile(tree, "test.py", "exec")
        return code

    return compiled


def _replace(node: Any) -> Any:
    """Replace each `a == b` in a syntax tree by a call of `equal`. `ast`, which has such tools, is slow to import."""
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            value[:] = [_replace(item) if isinstance(item, _ast.AST) else item for item in value]
        elif isinstance(value, _ast.AST):
            setattr(node, name, _replace(value))
    if not isinstance(node, _ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], _ast.Eq):
        return node
    place = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    function = _ast.Name(EQUAL, _ast.Load(), **place)
    return _ast.Call(function, [node.left, node.comparators[0]], [], **place)


def equal(left: Any, right: Any) -> Any:
    """`left == right`, for values that do not equal everything."""
    found = left == right
    if _equals_everything(left) or _equals_everything(right):
        raise AssertionError("a value that equals everything")
    return found


def _equals_everything(value: Any, depth: int = 3) -> bool:
    """True for a value that equals an unknown object, and for a container that has one, down to some depth."""
    try:
        if value == object():
            return True
    except Exception:  # its comparison knows only its own kind
        return False
    kind = type(value)
    parts = list(value.values()) if kind is dict else value if kind in {list, tuple} else ()
    return depth > 0 and any(_equals_everything(part, depth - 1) for part in parts)


def _try(compiled: Callable[[], CodeType], names: dict[str, Any]) -> str:
    """Run code, and return its line of the report."""
    try:
        exec(compiled(), names)
    except MemoryError:
        return "memory MemoryError\n"
    except SystemExit:
        return "ended SystemExit\n"
    except BaseException as error:
        return f"failed {_said(error)}\n"
    return "ok\n"


def _said(error: BaseException) -> str:
    """An exception in a line. Its class is the program's, and may do anything when it is asked for its text."""
    name = type(error).__name__
    try:
        text = str(error)[:LONGEST]
    except BaseException:
        return name
    return " ".join(f"{name}: {text}".split()) if text else name


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            continue
