"""Line numbers of the keys of a TOML file, and its comments, which `tomllib` does not report."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_ns.files.reading import split_lines

_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$"""
)


_STRING_OR_COMMENT = re.compile(
    r"""
    "{3}(?:\\.|[^\\])*?"{3} | '{3}.*?'{3}   # a long string that ends on its line
    | ("{3}|'{3}).*$                        # one that does not: its quotes stay
    | "(?:\\.|[^"\\])*" | '[^']*' | \#.*$
    """,
    re.VERBOSE,
)


def line_numbers(text: str) -> dict[str, int]:
    """Return the line, from 1, of every dotted key and table header of a valid TOML text.

    Tables of an array have their index in the key, from 0, as in `dataset.sources.1.path`.
    """
    lines: dict[str, int] = {}
    last: dict[str, int] = {}
    table: tuple[str, ...] = ()
    depth = 0
    closing = ""
    for number, line in enumerate(split_lines(text), start=1):
        if closing:
            if closing not in line:
                continue
            line = line.partition(closing)[2]  # noqa: PLW2901 -- the rest after a multi-line string
        elif depth == 0:
            if names := _header(line):
                table = _table(_split(names), line.lstrip().startswith("[["), last)
                if table[-1].isdecimal():
                    lines.setdefault(".".join(table[:-1]), number)
                lines.setdefault(".".join(table), number)
                continue
            if key := _KEY.match(line):
                lines.setdefault(".".join((*table, *_split(key[1]))), number)
                line = key[2]  # noqa: PLW2901 -- only the value can leave a bracket open
        bare = _STRING_OR_COMMENT.sub(r"\1", line)
        closing = bare[-3:] if bare.endswith(('"""', "'''")) else ""
        depth = max(0, depth + bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}"))
    return lines


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a valid TOML text, each with its line, from 1."""
    closing = ""
    for number, line in enumerate(split_lines(text), start=1):
        if closing and closing not in line:
            continue
        line = line.partition(closing)[2] if closing else line  # noqa: PLW2901 -- the rest after a multi-line string
        found = [part[0] for part in _STRING_OR_COMMENT.finditer(line)]
        yield from ((number, part) for part in found[-1:] if part.startswith("#"))
        bare = _STRING_OR_COMMENT.sub(r"\1", line)
        closing = bare[-3:] if bare.endswith(('"""', "'''")) else ""


def _header(line: str) -> str:
    """Return the dotted name of a table header, empty if the line is not a header."""
    if not (line := line.strip()).startswith("["):
        return ""
    names, _, rest = line.lstrip("[").partition("]")
    rest = rest.removeprefix("]").lstrip()
    return "" if "[" in names or (rest and not rest.startswith("#")) else names.strip()


def _table(names: tuple[str, ...], is_element: bool, last: dict[str, int]) -> tuple[str, ...]:
    """Return the keys of a header. The name of an array is followed by the index of its last table, kept in `last`."""
    keys: tuple[str, ...] = ()
    for depth, name in enumerate(names, start=1):
        keys = (*keys, name)
        array = ".".join(keys)
        if is_element and depth == len(names):
            last[array] = last.get(array, -1) + 1
        if array in last:
            keys = (*keys, str(last[array]))
    return keys


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
