"""The base classes of suites: what one reads from a row, asks, and makes of the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from lora_ns.errors import DataError, Problem, UsageError, did_you_mean
from lora_ns.formats import RowFaultError
from lora_ns.rewards import Completion, RewardFunction
from lora_ns.safety.deadline import OverrunError
from lora_ns.statistics import Measure, mean, share
from lora_ns.table import WORD, Column, Conflict, Name, PositiveInt, Table

T = TypeVar("T")

Asks = Literal["write", "loss", "choose", "drift", "label", "rank", "itself"]
"""What a suite asks a model for: an answer to each prompt, the loss of its expected answer or that of each choice, the
distance from its base on the base's answer, a label, or the margin of a pair. A suite of another library asks the
loaded model itself."""


@dataclass(frozen=True)
class Gold:
    """A row as a suite reads it: its reference answer, and all its columns."""

    where: str
    answer: str | None
    """Reference answer; None if the row has none."""
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    rendered: str | None = None
    """The reference answer as training renders it, if the chat template changes it."""
    tool_calls: Sequence[Mapping[str, Any]] = field(default=(), hash=False)
    """Tool calls of the reference answer, in the form of chat templates."""
    lacking: RowFaultError | None = field(default=None, compare=False)
    """The reason why the row has no reference answer, if it says so itself."""
    question: str | None = None
    """The last turn of the prompt, to show."""
    prompt: str | None = None
    """The whole prompt as text."""
    label: Any = None
    """Expected label, score or tags; None for rows with texts."""

    def completed(self, text: str) -> Completion:
        """The answer of a model to this row."""
        return Completion(text, self.answer, self.values)

    def expected(self, column: str | None = None) -> str:
        """The expected text, from a column or the reference answer. Raises `RowFaultError`."""
        if column is None and self.lacking is not None:
            raise self.lacking
        found = self.answer if column is None else self.values.get(column)
        if found is None or not str(found).strip():
            where = f"column `{column}`" if column else "reference answer"
            raise RowFaultError(f"no {where} to compare answers with", "add it, or remove the row")
        return str(found)


class Suite(Table):
    """A suite of evaluation items. To add one, write its class in a new file, named in `suites/__init__.py`."""

    kind: str
    """Kind of the suite, the tag of the union."""
    name: Annotated[str, Field(pattern=WORD)] | None = None
    """Name in reports and gates; default: the kind."""
    path: Name | None = None
    """File of rows in the format of the training rows; default: the evaluation rows of the run."""
    max_samples: PositiveInt | None = None
    """Maximum number of rows, from the start."""
    group_by: Column | None = None
    """Column to report the figures by, for each of its values."""
    cluster_by: Column | None = None
    """Column that rows which depend on one another share, such as a document: intervals then count its values."""

    asks: ClassVar[Asks] = "write"
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    """Figures that are better the lower they are."""
    uncompared: ClassVar[tuple[str, ...]] = ()
    """Figures that say nothing about which system is better."""
    is_against_base: ClassVar[bool] = False
    """True if another model judges each answer against that of the base; such a suite measures these judgements."""
    package: ClassVar[str] = ""
    """Module that has to be installed for it."""
    extra: ClassVar[str] = "rewards"
    """Extra of lorans that brings `package`."""

    @property
    def title(self) -> str:
        """Name in reports and gates."""
        return self.name or self.kind

    @property
    def asks_run_rows(self) -> bool:
        """True if its items are the evaluation rows of the run."""
        return not self.path

    @property
    def samples(self) -> int:
        """Number of answers that are asked for each item. From two on, an item's answer is their list."""
        return 1

    @property
    def decoding(self) -> Mapping[str, Any]:
        """Generation settings of a `write` suite that take the place of those of the run."""
        return {}

    @classmethod
    def with_usual_settings(cls, task: str | None = None) -> Suite:
        """The suite as it is without a table of its own.

        Args:
            task: name of its task, for a kind that has several; None if none is named.

        Raises:
            UsageError: if it needs settings that only a recipe can give, or there is no such task.
        """
        kind = cls.model_fields["kind"].default
        if task is not None and "task" not in cls.model_fields:
            raise UsageError(Problem("--suite", f"the suite `{kind}` has no tasks", f"write `--suite {kind}`"))
        try:
            return cls.model_validate({"kind": kind} if task is None else {"kind": kind, "task": task})
        except ValidationError as error:
            raise UsageError(_unusual(kind, task, error)) from None

    def conflicts(self, _key: str) -> Iterator[Conflict]:
        """Settings that cannot work; the argument is the dotted key of the table."""
        yield from ()

    @property
    def prefers_format(self) -> bool:
        """True if a question of the suite's own is asked only of rows that are not in the training format."""
        return False

    def own_question(self, _values: Mapping[str, Any]) -> tuple[str, str] | None:
        """The question of a row in a form of the suite's own, with its column; None if the training format makes it.

        Raises:
            RowFaultError: if the row has no such question.
        """
        return None

    def check(self, gold: Gold) -> None:
        """Check that a row has what its answer is measured by. Raises `RowFaultError`."""

    def shown(self, gold: Gold, answer: Any) -> str:
        """An answer as text to show; the expected one of a row with labels is an answer, too."""
        del gold
        return str(answer)

    def groups(self, golds: Sequence[Gold]) -> dict[str, list[int]]:
        """The indices of the rows with each value of `group_by`, in the order of the values; empty without it."""
        found: dict[str, list[int]] = {}
        if self.group_by is not None:
            for place, gold in enumerate(golds):
                found.setdefault(str(gold.values.get(self.group_by)), []).append(place)
        return dict(sorted(found.items()))

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The figures of a system by name; the first is the one that decides.

        Args:
            golds: the rows with their reference answers.
            answers: for a `write` suite, the text of each answer, or a list of its `samples`; for a `loss` suite, the
                loss of each summed over its tokens, with their number; for a `choose` suite, a list of those of the
                choices; for a `drift` suite, what `drift_from_base` returns for each.

        Raises:
            DataError: names the row whose answer cannot be judged in time.
        """
        raise NotImplementedError


class JudgedSuite(Suite):
    """A suite whose answers a reward function judges: each gets a score between 0 and 1."""

    figure: ClassVar[str]
    """Name of the figure."""
    is_share: ClassVar[bool] = True
    """True if scores are 0 or 1 alone."""

    @property
    def judge(self) -> RewardFunction:
        """The reward function."""
        raise NotImplementedError

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Those of the reward function."""
        yield from self.judge.conflicts(key)

    def check(self, gold: Gold) -> None:
        """Check that the row has what the reward function compares with. Raises `RowFaultError`."""
        self.judge.check(gold.completed(""))

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The mean score of the answers."""
        function = self.judge
        scores = judged(self, golds, answers, lambda gold, answer: function.score(gold.completed(answer)) or 0.0)
        return {self.figure: share([bool(score) for score in scores]) if self.is_share else mean(scores, bounds=(0, 1))}


def _unusual(kind: str, task: str | None, error: ValidationError) -> Problem:
    """The problem of a suite without settings that it needs, or with a task that there is not."""
    fault = error.errors()[0]
    needed = ", ".join(f"`{one['loc'][0]}`" for one in error.errors())
    if task is not None and fault["loc"] == ("task",):
        known = re.findall(r"'(.+?)'", str(fault.get("ctx", {}).get("expected", "")))
        remedy = did_you_mean(task, known, beside=f"one of: {', '.join(known)}" if known else "name one")
        return Problem("--suite", f"the suite `{kind}` has no task `{task}`", remedy)
    remedy = f'write a table `[[evaluation.suites]]` with `kind = "{kind}"` and {needed}'
    if needed == "`task`":
        remedy = f"write `--suite {kind}:TASK`, or a table `[[evaluation.suites]]` with `task`"
    return Problem("--suite", f"the suite `{kind}` needs {needed}", remedy)


SIMPLER_PATTERN = "avoid nested repetitions such as `(a+)+`"


def judged(suite: Suite, golds: Sequence[Gold], answers: Sequence[str], judge: Callable[[Gold, str], T]) -> list[T]:
    """The judgements of all answers. Raises `DataError` if one takes too much time or memory."""
    found = []
    for gold, answer in zip(golds, answers, strict=True):
        try:
            found.append(judge(gold, answer))
        except OverrunError as error:
            what = f"the suite `{suite.title}` {error} on the answer generated for it"
            raise DataError(Problem(gold.where, what, SIMPLER_PATTERN)) from None
    return found
