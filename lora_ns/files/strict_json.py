"""JSON that every parser reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def strict_json(
    value: Any,
    *,
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
    ensure_ascii: bool = False,
) -> str:
    """A value as JSON; numbers that JSON does not have, NaN and the infinities, become null.

    Args:
        value: the value.
        indent: number of spaces by which to indent each level; None for a single line.
        default: converts objects that are no JSON values.
        ensure_ascii: write other characters as escapes.

    Raises:
        ValueError: if the value contains itself.
        TypeError: if something in it is no JSON value.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False, default=default)
    except ValueError:
        finite = json.loads(json.dumps(value, default=default), parse_constant=lambda _: None)
        return json.dumps(finite, indent=indent, ensure_ascii=ensure_ascii)
