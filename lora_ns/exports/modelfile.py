"""Ollama's Modelfile, written so that Ollama's parser reads the same values, and read as that parser reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lora_ns.errors import Problem, UsageError

MODELFILE = "Modelfile"

_SPACES, _NEWLINES, _QUOTES = " \t", "\r\n", '"""'

_KNOWN = frozenset(
    {
        *("from", "license", "template", "system", "adapter", "draft"),
        *("renderer", "parser", "parameter", "message", "requires"),
    }
)
"""Commands of Ollama's parser."""


@dataclass(frozen=True)
class Modelfile:
    """What Ollama makes a model of."""

    source: str
    """The file of the weights, relative to the folder of the Modelfile."""
    template: str | None = None
    """A template of Go's text/template."""
    system: str | None = None
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values by the name of the parameter, such as `stop`."""
    others: tuple[str, ...] = ()
    """Further commands in it that change the model or its prompts, such as `MESSAGE`."""

    def __str__(self) -> str:
        lines = [f"FROM {quoted(self.source)}"]
        lines += [] if self.template is None else [f"TEMPLATE {quoted(self.template)}"]
        lines += [] if self.system is None else [f"SYSTEM {quoted(self.system)}"]
        lines += [f"PARAMETER {name} {quoted(one)}" for name, values in self.parameters.items() for one in values]
        return "\n".join([*lines, ""])


def quoted(value: str) -> str:
    """Return a value in the quotes that it needs. Raises `UsageError` for a value that no quotes keep as it is."""
    if re.fullmatch(r"[\w./-]+", value):
        written = value
    else:
        quotes = _QUOTES if {*value} & {'"', *_NEWLINES} else '"'
        written = f"{quotes}{value}{quotes}"
    if _value_at(f"{written}\n", 0) != (value, len(written)):
        what = f"Ollama's Modelfile cannot hold the text {value[:40]!r}"
        raise UsageError(Problem("", what, "remove its invisible characters and triple quotes, or use `--to gguf`"))
    return written


def read_modelfile(text: str) -> Modelfile:
    """Read a Modelfile as Ollama's `parser/parser.go` does. Raises `UsageError` with the number of the line."""
    values: dict[str, str] = {}
    parameters: dict[str, list[str]] = {}
    others: list[str] = []
    for name, value in _commands(text):
        kind, _, key = name.partition(" ")
        if key:
            parameters.setdefault(key, []).append(value)
        elif kind in {"from", "template", "system"}:
            values[kind] = value
        elif kind != "license":
            others.append(kind.upper())
    if "from" not in values:
        raise UsageError(Problem("", "has no FROM line", "export it again"))
    return Modelfile(values["from"], values.get("template"), values.get("system"), parameters, tuple(others))


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values; the name of a parameter follows that of its command."""
    place = 0
    while place < len(text):
        if text[place] == "#":
            place = _end(text, place, _NEWLINES)
        elif text[place] in _SPACES + _NEWLINES:
            place += 1
        else:
            begin, end = place, _end(text, place, _SPACES + _NEWLINES)
            name = text[place:end].lower()
            if name not in _KNOWN:
                raise _fault(text, begin, f"`{text[place:end]}` is no command")
            if name == "parameter":
                place, end = end + 1, _end(text, end + 1, _SPACES + _NEWLINES)
                name = f"{name} {text[place:end]}"
            found = _value_at(text, end + 1) if text[end : end + 1] in {*_SPACES} else None
            if found is None:
                raise _fault(text, begin, f"`{name.upper()}` has no whole value")
            value, place = found
            yield name, value


def _fault(text: str, place: int, what: str) -> UsageError:
    line = text.count("\n", 0, place) + 1
    return UsageError(Problem("", f"line {line}: {what}", "export it again"))


def _end(text: str, place: int, ends: str) -> int:
    """The next place of one of some characters, or the end of the text."""
    return next((at for at in range(place, len(text)) if text[at] in ends), len(text))


def _value_at(text: str, place: int) -> tuple[str, int] | None:
    """The value at a place, and where it ends; None without its closing quotes. Invisible characters are dropped."""
    read, start, end = list[str](), 0, 0
    for at in range(place, len(text) + 1):
        char = text[at : at + 1]
        if char in {"", *_NEWLINES}:
            head, tail = (read[start : start + 3], read[max(start, end - 3) : end])
            if _is_closed("".join(head), "".join(tail), end - start):
                return _unquoted("".join(read[start:end])), at
        if char.isprintable() or char in _SPACES + _NEWLINES:
            read.append(char)
            if not char.isspace():
                start, end = (start if end else len(read) - 1), len(read)
    return None


def _is_closed(head: str, tail: str, length: int) -> bool:
    """True if a value ends with the quotes that it starts with, or has none."""
    quotes = next((one for one in (_QUOTES, '"') if head.startswith(one)), "")
    return length >= 2 * len(quotes) and tail.endswith(quotes)


def _unquoted(value: str) -> str:
    """A value without its quotes."""
    quotes = next((one for one in (_QUOTES, '"') if value.startswith(one)), "")
    return value[len(quotes) : len(value) - len(quotes)]
