"""Readers of values: `2e-4`, which YAML parses as a string, is a number, and `"true"` is true."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from lora_ns.safety.credentials import HIDDEN, is_secret_name

Reader = Callable[[Any], Any]
"""Function from a value in the file to one in the recipe. Raises `UnreadableError`."""


class UnreadableError(Exception):
    """A value that is invalid for its key, with the reason and advice."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


_PLACEHOLDER = re.compile(r"\$\{[^}]*\}|\$[A-Z][A-Z0-9_]+|\{\{.*?\}\}|\{%.*?%\}|<<[A-Z_]+>>", re.DOTALL)


_LARGEST = 2**63


def check_plain(value: Any) -> None:
    """Refuse values that TOML cannot express, and placeholders such as `${VAR}` and Jinja.

    Raises:
        UnreadableError: also for values in a list or a table.
    """
    if isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
        raise UnreadableError(f"`{found[0]}` is a placeholder", "write the value itself")
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            check_plain(part)
    elif not isinstance(value, (str, bool, int, float)):
        raise UnreadableError("not a string, number, list or table", "put quotes around a string")
    elif isinstance(value, (int, float)) and not -_LARGEST <= value < _LARGEST:  # nan is not, either
        raise UnreadableError("not a finite number within 64 bits", "write another number")


def number(value: Any) -> float | int:
    """Read a finite number, also from a string: `2e-4`, `"0.1"`."""
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
    """Read a whole number, also from a string or `3.0`."""
    found = number(value)
    if found != int(found):
        raise UnreadableError("not a whole number", "write a whole number")
    return int(found)


def flag(value: Any) -> bool:
    """Read true or false, also from a string."""
    check_plain(value)
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if (found := words.get(str(value).strip().lower())) is None:
        raise UnreadableError("neither true nor false", "write true or false")
    return found


def text(value: Any) -> str:
    """Read a string, also from a number, as in `run_name: 7`."""
    check_plain(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UnreadableError("not a string", "write a string")
    return str(value)


def names(value: Any) -> list[str]:
    """Read a list of strings, also from one string with commas."""
    check_plain(value)
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise UnreadableError("not a list of strings", "write a list of strings")
    return [text(part) for part in parts if part != ""]


def plain(value: Any) -> Any:
    """Read any value unchanged."""
    check_plain(value)
    return value


def shown(key: str, value: Any) -> str:
    """Format a key and its value for messages, such as `lora_r: 32`; shortened, and without secrets."""
    said = HIDDEN if is_secret_name(key.rpartition(".")[2]) else json.dumps(value, default=str, ensure_ascii=False)
    return f"{key}: {said if len(said) <= _LONGEST else said[: _LONGEST - 4] + ' ...'}"


_LONGEST = 60
