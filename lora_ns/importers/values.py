"""Values of other tools' files as what they mean: `2e-4` that YAML reads as text is a number, `"true"` a flag."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from lora_ns.safety.credentials import HIDDEN, is_secret_name

Reader = Callable[[Any], Any]
"""From a value of the file to one of the recipe. Raises `UnreadableError`."""


class UnreadableError(Exception):
    """A value that does not say what its key asks for: what is wrong, what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


_PLACEHOLDER = re.compile(r"\$\{[^}]*\}|\$[A-Z][A-Z0-9_]+|\{\{.*?\}\}|\{%.*?%\}|<<[A-Z_]+>>", re.DOTALL)


_LARGEST = 2**63


def check_plain(value: Any) -> None:
    """Refuse what a recipe cannot say, and `${VAR}` and Jinja, which another program fills in.

    Raises:
        UnreadableError: also for something within a list or a table.
    """
    if isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
        raise UnreadableError(f"`{found[0]}` is filled in by another program", "write the value itself")
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            check_plain(part)
    elif not isinstance(value, (str, bool, int, float)):
        raise UnreadableError("neither text, number, list nor table", "put a text in quotes")
    elif isinstance(value, (int, float)) and not -_LARGEST <= value < _LARGEST:  # nan is not, either
        raise UnreadableError("not a finite number of 64 bits", "write another one")


def number(value: Any) -> float | int:
    """A finite number, also as text: `2e-4`, `"0.1"`."""
    check_plain(value)
    found = value
    if isinstance(value, str):
        try:
            found = int(value.replace("_", "")) if re.fullmatch(r"[+-]?\d[\d_]{0,18}", value.strip()) else float(value)
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise UnreadableError("not a number", "write a number")
    check_plain(found)
    return found


def whole(value: Any) -> int:
    """A whole number, also as text or as `3.0`."""
    found = number(value)
    if found != int(found):
        raise UnreadableError("not a whole number", "write a whole number")
    return int(found)


def flag(value: Any) -> bool:
    """True or false, also as text."""
    check_plain(value)
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if (found := words.get(str(value).strip().lower())) is None:
        raise UnreadableError("neither true nor false", "write true or false")
    return found


def text(value: Any) -> str:
    """A text; numbers that stand where a text is meant, as in `run_name: 7`, are one, too."""
    check_plain(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UnreadableError("not a text", "write a text")
    return str(value)


def names(value: Any) -> list[str]:
    """A list of texts; one text is a list, too, and commas divide it."""
    check_plain(value)
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise UnreadableError("not a list of texts", "write a list")
    return [text(part) for part in parts if part != ""]


def plain(value: Any) -> Any:
    """Any value, as it is."""
    check_plain(value)
    return value


def shown(key: str, value: Any) -> str:
    """A key with its value for messages: `lora_r: 32`, cut if it is long and without secrets."""
    said = HIDDEN if is_secret_name(key.rpartition(".")[2]) else json.dumps(value, default=str, ensure_ascii=False)
    return f"{key}: {said if len(said) <= _LONGEST else said[: _LONGEST - 4] + ' ...'}"


_LONGEST = 60
