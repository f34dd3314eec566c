"""Programs with tests: the code in a completion, and the tests of its row in the forms of HumanEval and MBPP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_ns.formats import RowFaultError
from lora_ns.formats.cells import is_there
from lora_ns.sandbox.outcome import Program

_FENCE = "```"
_LANGUAGES = frozenset({"", "py", "python", "python3"})
_DEFINED = re.compile(r"^(?:async )?def (\w+)", re.MULTILINE)
_AFTER_FUNCTION = ("class ", "def ", "async def ", "@", "#", "if ", "print", "assert ", "import ", "from ", _FENCE)
"""Beginnings of a line that end the body of a function: what a base model goes on with, as in HumanEval's paper."""

REMEDY = "rows as in MBPP have `test_list`, those as in HumanEval `test` and `entry_point`; other names: `column`"


def program_of(text: str, row: Mapping[str, Any], column: str | None = None) -> Program:
    """The program of a completion with the tests of its row.

    Args:
        text: the completion.
        row: all columns of the row.
        column: column with the tests; by default `test_list`, or else `test`.

    Raises:
        RowFaultError: if the row has no tests.
    """
    tests, function = row_tests(row, column)
    code = code_in(text, "\n".join(tests))
    begun = _text(row.get("prompt"))
    if function in _DEFINED.findall(begun):
        is_whole = function in _DEFINED.findall(code)
        code = f"{begun}\n{code}" if is_whole else begun + _body(code)
    before, after = _texts(row.get("test_imports")), _texts(row.get("test_setup_code"))
    return Program("\n".join([*before, code, *after]), tests)


def row_tests(row: Mapping[str, Any], column: str | None = None) -> tuple[tuple[str, ...], str | None]:
    """The tests of a row, and the name of the function that they call, if it is known. Raises `RowFaultError`."""
    name = column or ("test_list" if is_there(row, "test_list") else "test")
    if not is_there(row, name):
        what = f"no column `{column}` with tests" if column else "no tests: neither `test_list` nor `test`"
        raise RowFaultError(what, REMEDY)
    tests = _texts(row[name])
    if not any(test.strip() for test in tests):
        raise RowFaultError(f"the column `{name}` has no tests", "remove the row")
    function = _text(row.get("entry_point")) or None
    if "check" not in _DEFINED.findall("\n".join(tests)):
        return tests, function
    if function is None or not function.isidentifier():
        what = "no `entry_point`" if function is None else f"`entry_point` is no name of a function: {function}"
        raise RowFaultError(f"{what}, and the tests define `check`", "name the function that `check` is called with")
    return ("\n".join([*tests, f"check({function})"]),), function


def code_in(text: str, tests: str) -> str:
    """The code of a completion, after its reasoning.

    It is the last fenced Python block that defines a function which the tests mention, or else the first block, or else
    the whole text.
    """
    text = text.rpartition("</think>")[2]
    blocks = list(_blocks(text))
    if not blocks:
        return text
    mentioned = set(re.findall(r"\w+", tests))
    return next((block for block in reversed(blocks) if mentioned.intersection(_DEFINED.findall(block))), blocks[0])


def _blocks(text: str) -> Iterator[str]:
    """Fenced blocks of Python; the last one may have no end."""
    kept: list[str] | None = None
    language = indent = ""
    for line in text.splitlines():
        bare = line.strip()
        if kept is None and bare.startswith(_FENCE):
            kept, language, indent = [], bare.removeprefix(_FENCE).strip().lower(), line[: line.index(_FENCE)]
        elif kept is not None and bare == _FENCE:
            if language in _LANGUAGES:
                yield "\n".join(kept)
            kept = None
        elif kept is not None:
            kept.append(line.removeprefix(indent))
    if kept and language in _LANGUAGES:
        yield "\n".join(kept)


def _body(code: str) -> str:
    """A continued function up to its end."""
    first, *others = code.splitlines() or [""]
    end = next((number for number, line in enumerate(others) if line.startswith(_AFTER_FUNCTION)), None)
    return "\n".join([first, *others[:end]])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or several. Raises `RowFaultError`."""
    found = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
        raise RowFaultError("tests that are no text and no list of texts", REMEDY)
    return tuple(found)
