"""Notices about rows that can still be trained on, by code, with the texts for training and audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CUT = "EOS003"


NEVER_ENDS = "EOS002"


UNTOLD = "TAG001"


NEVER_TAUGHT = "TAG002"


IDENTICAL = "PAIR001"


CHOSEN_CUT = "PAIR007"


ONE_LABEL = "KTO001"


LEFT_OUT = ("SPEC002", IDENTICAL)
"""Notices of rows that are not trained on."""


@dataclass(frozen=True)
class Notice:
    """Description and remedy of a notice."""

    what: str
    remedy: str
    error: bool = False
    """True if such rows stop training: `validate --data` fails, and `train` does not start."""


NOTICES: Mapping[str, Notice] = {
    NEVER_ENDS: Notice(
        "no row teaches the model to stop", 'raise `max_seq_length`, or `on_overflow = "drop"`', error=True
    ),
    CUT: Notice(
        "the token that ends the last answer is cut off or not trained",
        'raise `max_seq_length`, or `on_overflow = "truncate-prompt"`',
    ),
    "BOS001": Notice("the beginning-of-sequence token appears twice", "remove it from the template"),
    "DATA002": Notice("an empty question", "write it, or remove the row"),
    "DATA003": Notice(
        "a text that looks like a conversation, but is learned whole, including the questions",
        "write conversations as .jsonl with `messages`",
    ),
    IDENTICAL: Notice("left out: both answers are the same", "remove the row, or correct one of its answers"),
    CHOSEN_CUT: Notice(
        "the chosen answer is cut off and the rejected one is not, so the model learns not to finish",
        'raise `max_seq_length`, or write `on_overflow = "drop"` or "truncate-prompt"',
    ),
    "LABEL002": Notice(
        "the only row of its class, while other classes have many",
        "a misspelt class, or the header of a table: fix it, skip it with `slice`, or keep it if it is intended",
    ),
    ONE_LABEL: Notice(
        "all answers have the same label, so there is nothing to prefer",
        "add answers with the other label; mix the rows of a stream",
        error=True,
    ),
    NEVER_TAUGHT: Notice(
        "a tag that no row teaches, because its words become no tokens",
        "fill in the words (they may be empty), or remove them with their tags",
        error=True,
    ),
    UNTOLD: Notice(
        "a word that becomes no token, such as an empty one, has a tag that is neither learned nor measured",
        "fill in the word, or remove it with its tag",
    ),
    "SPEC001": Notice(
        "a text spells out a special token, and becomes that token", "change the text if that is not intended"
    ),
    "SPEC002": Notice("left out: an answer spells out a stop token before its end", "change the text to keep the row"),
}


@dataclass
class _Taught:
    """Facts about rows that decide if a notice is an error."""

    ended: int = 0
    """Number of rows that teach the model to stop."""
    tags: set[str] = field(default_factory=set)
    """Tags of words that become tokens."""
    lost: dict[str, str] = field(default_factory=dict)
    """Tags of words that become no token, with the first row of each."""

    def untaught(self) -> list[str]:
        """Return the places of tags whose words all become no token."""
        return [f"{where} (`{tag}`)" for tag, where in self.lost.items() if tag not in self.tags]

    def lose(self, tag: str, where: str) -> None:
        """Record the tag of a word that becomes no token."""
        self.lost.setdefault(tag, where)


@dataclass
class Noted(_Taught):
    """Rows with notices, by code."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, where: str) -> None:
        """Record a row."""
        self.rows.setdefault(code, []).append(where)

    def found(self, teaches: bool = True) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield each code with its rows, in the order of `NOTICES`; `teaches` is True for training rows."""
        for code in NOTICES:
            if code == ONE_LABEL and not teaches:
                continue
            if code == UNTOLD and teaches and (untaught := self.untaught()):
                yield NEVER_TAUGHT, untaught
            elif rows := self.rows.get(code):
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), rows

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Yield each code with its number of rows and the first of them."""
        for code, rows in self.found(teaches):
            yield code, len(rows), rows[0]


@dataclass
class Counted(_Taught):
    """Like `Noted`, but only with counts: for the rows of a stream, which are too many to record."""

    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Number of rows, and the first of them."""

    def add(self, noted: Noted) -> None:
        """Add the notices of some more rows."""
        self.ended += noted.ended
        self.tags |= noted.tags
        self.lost = {**noted.lost, **self.lost}
        for code, rows in noted.rows.items():
            count, first = self.rows.get(code, (0, rows[0]))
            self.rows[code] = count + len(rows), first

    def counted(self, teaches: bool = True) -> Iterator[tuple[str, int, str]]:
        """Yield each code with its number of rows and the first of them."""
        for code in NOTICES:
            if code == UNTOLD and teaches and (untaught := self.untaught()):
                yield NEVER_TAUGHT, len(untaught), untaught[0]
            elif code in self.rows:
                yield (NEVER_ENDS if code == CUT and teaches and not self.ended else code), *self.rows[code]


def as_notes(name: str, noted: Noted | Counted, teaches: bool = True) -> Iterator[str]:
    """Yield the notes of a training run; `teaches` is True for training rows."""
    names_all = "; `lorans validate --data` lists all" if isinstance(noted, Noted) else ""
    for code, number, first in noted.counted(teaches):
        count = "1 row" if number == 1 else f"{number:,} rows"
        text = f"{name} rows: [{code}] {NOTICES[code].what}: {count}, the first at {first}"
        yield f"{text} ({NOTICES[code].remedy}{names_all})"
