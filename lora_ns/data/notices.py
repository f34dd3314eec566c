"""What is told of rows that can be trained on all the same: by code, in the words of a training and of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CUT = "EOS003"


NEVER_ENDS = "EOS002"


UNTOLD = "TAG001"


NEVER_TAUGHT = "TAG002"


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
    NEVER_TAUGHT: Notice(
        "a tag that only words have that become no token, so that no row teaches it",
        "write the words, such as those that are empty, or take them out with their tags",
        error=True,
    ),
    UNTOLD: Notice(
        "a word that becomes no token, such as an empty one, has a tag that is neither learned nor measured",
        "write the word, or take it out with its tag",
    ),
    "SPEC001": Notice(
        "a text spells out a special token, and becomes that token", "change the text where it is not meant"
    ),
    "SPEC002": Notice("left out: an answer spells out a stop token before its end", "change the text to keep the row"),
}


@dataclass
class _Taught:
    """What rows teach, as far as it decides whether something that is told of them is an error."""

    ended: int = 0
    """Rows that teach the model to stop."""
    tags: set[str] = field(default_factory=set)
    """Tags of words that become tokens."""
    lost: dict[str, str] = field(default_factory=dict)
    """Tags of words that become none, and the first row of each."""

    def untaught(self) -> list[str]:
        """Where the tags stand that only words have that become no token."""
        return [f"{where} (`{tag}`)" for tag, where in self.lost.items() if tag not in self.tags]

    def lose(self, tag: str, where: str) -> None:
        """Remember the tag of a word that becomes no token."""
        self.lost.setdefault(tag, where)


@dataclass
class Noted(_Taught):
    """Rows by the code of what is to be told of them."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, where: str) -> None:
        """Remember a row."""
        self.rows.setdefault(code, []).append(where)

    def found(self, teaches: bool = True) -> Iterator[tuple[str, Sequence[str]]]:
        """Each code with its rows, in the order of `NOTICES`; `teaches` says whether they are trained on."""
        for code in NOTICES:
            if code == UNTOLD and teaches and (untaught := self.untaught()):
                yield NEVER_TAUGHT, untaught
            elif rows := self.rows.get(code):
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), rows

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Each code with the number of its rows and the first of them."""
        for code, rows in self.found(teaches):
            yield code, len(rows), rows[0]


@dataclass
class Counted(_Taught):
    """As `Noted`, for rows that are too many to be remembered one by one: those of a stream."""

    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Number of rows, and the first of them."""

    def add(self, noted: Noted) -> None:
        """Count what was noted of some more rows."""
        self.ended += noted.ended
        self.tags |= noted.tags
        self.lost = {**noted.lost, **self.lost}
        for code, rows in noted.rows.items():
            count, first = self.rows.get(code, (0, rows[0]))
            self.rows[code] = count + len(rows), first

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Each code with the number of its rows and the first of them."""
        for code in NOTICES:
            if code == UNTOLD and teaches and (untaught := self.untaught()):
                yield NEVER_TAUGHT, len(untaught), untaught[0]
            elif code in self.rows:
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), *self.rows[code]


def as_notes(name: str, noted: Noted | Counted, teaches: bool = True) -> Iterator[str]:
    """What a training says of rows; `teaches` says whether they are trained on."""
    names_all = "; `lorans validate --data` names all" if isinstance(noted, Noted) else ""
    for code, number, first in noted.counted(teaches):
        count = "1 row" if number == 1 else f"{number:,} rows"
        told = f"{name} rows: [{code}] {NOTICES[code].what}: {count}, the first at {first}"
        yield f"{told} ({NOTICES[code].remedy}{names_all})"
