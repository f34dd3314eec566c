"""What is told of rows that can be trained on all the same: by code, in the words of a training and of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CUT = "EOS003"
NEVER_ENDS = "EOS002"


@dataclass(frozen=True)
class Notice:
    """What is wrong with some rows, and what to do about it."""

    what: str
    remedy: str
    error: bool = False
    """Whether such rows are not trained on: `validate --data` fails for them, and `train` does not begin."""


NOTICES: Mapping[str, Notice] = {
    NEVER_ENDS: Notice(
        "no row teaches the model to stop", 'raise `sft.max_seq_length`, or `on_overflow = "drop"`', error=True
    ),
    CUT: Notice(
        "the token that ends the last answer is cut off or not trained",
        'raise `sft.max_seq_length`, or `on_overflow = "truncate-prompt"`',
    ),
    "BOS001": Notice("the beginning token is there twice", "leave it out of the template"),
    "DATA002": Notice("a question that is empty", "write it, or remove the row"),
    "DATA003": Notice(
        "a text that looks like a conversation, and is learned whole, the questions, too",
        "write conversations as .jsonl with `messages`",
    ),
    "LABEL002": Notice(
        "the only row of its class, in a set that has many of others",
        "a misspelt class, or the header of a table: mend it, or leave it out by `slice`; keep it if it is meant",
    ),
    "SPEC001": Notice(
        "a text spells out a special token, and becomes that token", "change the text where it is not meant"
    ),
    "SPEC002": Notice("left out: an answer spells out a stop token before its end", "change the text to keep the row"),
}


@dataclass
class Noted:
    """Rows by the code of what is to be told of them."""

    rows: dict[str, list[str]] = field(default_factory=dict)
    ended: int = 0
    """Rows that teach the model to stop."""

    def add(self, code: str, where: str) -> None:
        """Remember a row."""
        self.rows.setdefault(code, []).append(where)

    def found(self, teaches: bool = True) -> Iterator[tuple[str, Sequence[str]]]:
        """Each code with its rows, in the order of `NOTICES`; `teaches` says whether they are trained on."""
        for code in NOTICES:
            if rows := self.rows.get(code):
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), rows

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Each code with the number of its rows and the first of them."""
        for code, rows in self.found(teaches):
            yield code, len(rows), rows[0]


@dataclass
class Counted:
    """As `Noted`, for rows that are too many to be remembered one by one: those of a stream."""

    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Number of rows, and the first of them."""
    ended: int = 0

    def add(self, noted: Noted) -> None:
        """Count what was noted of some more rows."""
        self.ended += noted.ended
        for code, rows in noted.rows.items():
            count, first = self.rows.get(code, (0, rows[0]))
            self.rows[code] = count + len(rows), first

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Each code with the number of its rows and the first of them."""
        for code in NOTICES:
            if code in self.rows:
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), *self.rows[code]


def as_notes(name: str, noted: Noted | Counted, teaches: bool = True) -> Iterator[str]:
    """What a training says of rows; `teaches` says whether they are trained on."""
    names_all = "; `lorans validate --data` names all" if isinstance(noted, Noted) else ""
    for code, number, first in noted.counted(teaches):
        count = "1 row" if number == 1 else f"{number:,} rows"
        told = f"{name} rows: [{code}] {NOTICES[code].what}: {count}, the first at {first}"
        yield f"{told} ({NOTICES[code].remedy}{names_all})"
