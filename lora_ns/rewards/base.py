"""The base class of reward functions: what one is given, and the hooks that the rest of lorans calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lora_ns.errors import Problem
from lora_ns.formats import RowFaultError
from lora_ns.formats.cells import is_there, text
from lora_ns.table import Column, Conflict, Table


@dataclass(frozen=True)
class Completion:
    """A generated text, with the row of its prompt."""

    text: str
    """The text without stop tokens."""
    answer: str | None = None
    """Reference answer of the row."""
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """All columns of the row."""
    prompt: str = ""
    """The prompt as the model receives it."""
    turns: Sequence[Mapping[str, Any]] | None = field(default=None, hash=False)
    """Turns of the prompt; None if it is plain text."""
    ids: Sequence[int] = ()
    """Token ids, with the stop token."""


Scores = Sequence[float | None]
"""Scores of completions; None for one that the function does not judge."""

Scorer = Callable[[Sequence[Completion]], Scores]
"""A reward function that is ready to score completions."""


class RewardFaultError(Exception):
    """A reward function failed, or returned something that is not a score. Holds a `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class RewardFunction(Table):
    """A reward function of the recipe. To add one, write its class in a new file, named in `rewards/__init__.py`."""

    name: str
    """Name of the function, the tag of the union."""
    weight: float = 1.0
    """Weight of its score in the reward, which is the weighted sum; negative for a penalty."""

    verifies: ClassVar[bool] = False
    """True if the highest score means that the completion is right."""
    highest: ClassVar[float] = 1.0
    """The highest score."""
    package: ClassVar[str] = ""
    """Module that has to be installed for it."""
    key_of_code: ClassVar[str] = ""
    """Key that makes it run code, which needs `allow_code`; empty if it runs none."""

    @property
    def runs_code(self) -> str:
        """The code that it runs, in words."""
        return ""

    @property
    def metric(self) -> str:
        """Name in metrics, such as `rewards/exact/mean`."""
        return self.name

    def conflicts(self, _key: str) -> Iterator[Conflict]:
        """Settings that cannot work; the argument is the dotted key of the table."""
        yield from ()

    def check(self, row: Completion) -> None:
        """Check that a row has everything that the function compares a completion with. Raises `RowFaultError`."""

    def score(self, given: Completion) -> float | None:
        """Score a completion. Raises `RowFaultError` if its row lacks something, and `OverrunError`."""
        raise NotImplementedError

    def scorer(self, _folders: Sequence[Path]) -> Scorer:
        """The function for several completions; `folders` are searched for files that the table names."""
        return lambda batch: [self.score(given) for given in batch]


class Comparison(RewardFunction):
    """A reward function that compares completions with the reference answer or a column of their rows."""

    verifies: ClassVar[bool] = True

    column: Column | None = None
    """Column with the expected text; by default the reference answer of the row."""

    def check(self, row: Completion) -> None:
        """Check that the row has the expected text. Raises `RowFaultError`."""
        if not self.expected(row).strip():
            where = f"column `{self.column}`" if self.column else "reference answer"
            raise RowFaultError(
                f"the {where} is empty, which `{self.name}` compares completions with", "remove the row"
            )

    def expected(self, row: Completion) -> str:
        """The expected text. Raises `RowFaultError`."""
        if self.column is None:
            if row.answer is None:
                what = f"no reference answer, which `{self.name}` compares completions with"
                raise RowFaultError(what, f'add an `answer`, or name its column: `column = "..."` below `{self.name}`')
            return row.answer
        if not is_there(row.values, self.column):
            what = f"no column `{self.column}`, which `{self.name}` compares completions with"
            raise RowFaultError(what, f"columns: {', '.join(row.values)}")
        return text(row.values, self.column)
