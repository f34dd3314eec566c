"""Foreign text made safe for terminals and logs: control characters and invisible ones are shown as escapes.

Accents, the scripts of all languages and emoji stay as they are. In an emoji that is joined from several, the joiner is
shown too (`\u200d`), because the same character hides text elsewhere. Backslashes are not doubled: people read file
names in this text, and nothing parses it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from lora_ns.safety.credentials import scrub_file, scrubbed

_SHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are escaped: controls, formats such as the text direction, surrogates, separators."""


_UNSEEN = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)}
)
"""Invisible characters of other categories, without the selector that emoji need (U+FE0F)."""


class _Escapes(dict[int, str]):
    """A translation table that is filled when a character first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_shown = unicodedata.category(character) in _SHOWN or code in _UNSEEN
        self[code] = ascii(character)[1:-1] if is_shown else character
        return self[code]


_ESCAPES = _Escapes()


_ESCAPES_IN_LINES = _Escapes({ord("\n"): "\n", ord("\t"): "\t"})


def printable(text: str, is_multiline: bool = False) -> str:
    """Escape characters that control a terminal or are invisible, such as `\\x1b` and `\\u202e`.

    Args:
        text: the text to show.
        is_multiline: keep line breaks and tabs instead of showing them as `\\n` and `\\t`.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES_IN_LINES if is_multiline else _ESCAPES)


def readable(text: str) -> str:
    """Make text ready for terminals and logs: secrets hidden, control characters escaped, line breaks kept."""
    return printable(scrubbed(text), is_multiline=True)


def make_file_readable(path: Path) -> None:
    """Make a finished log readable, in place. A log of more than 64 MiB is left as it is."""
    scrub_file(path)
    make_file_printable(path)


def make_file_printable(path: Path) -> None:
    """Make a finished log printable, in place. A log of more than 64 MiB is left as it is."""
    if path.stat().st_size > _LONGEST_LOG:
        return
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    shown = printable(text, is_multiline=True)
    if shown != text:
        with path.open("r+b") as file:  # an escape is never shorter than its character
            file.write(shown.encode("utf-8"))


_LONGEST_LOG = 64 * 1024 * 1024
