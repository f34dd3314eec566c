"""Text of others made fit for a terminal and a log: what would steer it, or would not be seen, is shown as an escape.

Accents, scripts of all languages and emoji stay as they are. Of an emoji that is joined of several, the joiner is shown
too (`\u200d`): the same character hides text elsewhere. A backslash is not doubled: this is for people, who read file
names in it, and nothing reads it back.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from lora_ns.safety.credentials import scrub_file, scrubbed

_SHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories that are shown by code point: controls, formats such as the direction of text, surrogates, separators."""


_UNSEEN = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)}
)
"""Characters of other categories that are drawn as nothing; the selector that emoji need (U+FE0F) is not among them."""


class _Escapes(dict[int, str]):
    """What each character is shown as, decided when it first comes up."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_shown = unicodedata.category(character) in _SHOWN or code in _UNSEEN
        self[code] = ascii(character)[1:-1] if is_shown else character
        return self[code]


_ESCAPES = _Escapes()


_ESCAPES_IN_LINES = _Escapes({ord("\n"): "\n", ord("\t"): "\t"})


def printable(text: str, is_multiline: bool = False) -> str:
    """A text without characters that steer a terminal or are not seen: `\\x1b`, `\\u202e`.

    Args:
        text: what is to be shown.
        is_multiline: whether line breaks and tabs stay, which are shown as `\\n` and `\\t` otherwise.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES_IN_LINES if is_multiline else _ESCAPES)


def readable(text: str) -> str:
    """What people get to read, on terminals and in logs: lines in their printable form, without secrets in them."""
    return printable(scrubbed(text), is_multiline=True)


def make_file_readable(path: Path) -> None:
    """The same of a log, once it is written; one that is longer than anybody reads is left."""
    scrub_file(path)
    make_file_printable(path)


def make_file_printable(path: Path) -> None:
    """Show what is not printable in a log, once it is written; one that is longer than anybody reads is left."""
    if path.stat().st_size > _LONGEST_LOG:
        return
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    shown = printable(text, is_multiline=True)
    if shown != text:
        with path.open("r+b") as file:  # what is shown is never shorter
            file.write(shown.encode("utf-8"))


_LONGEST_LOG = 64 * 1024 * 1024
