"""`glue`: a task of GLUE, by its own figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lora_ns.formats import Columns, Format, RowFaultError, TextClassification
from lora_ns.formats.cells import find, is_there, listed, shown
from lora_ns.statistics import Measure, f1, matthews, pearson, share, spearman
from lora_ns.suites.base import Asks, Gold, Suite

GlueTask = Literal[
    "cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"
]
"""The tasks of GLUE, with the two evaluation sets of MNLI."""


@dataclass(frozen=True)
class _Task:
    """A task: its figures, its classes, and the columns of its rows."""

    figures: tuple[str, ...]
    """The figures of its leaderboard; the first decides."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their numbers; empty for scores."""
    columns: tuple[tuple[str, ...], ...]
    """Texts and label in the dataset on the hub, then in GLUE's own files."""

    def number(self, label: Any) -> int | None:
        """The number of a class, from its name, or from its number as text or as a whole number."""
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if isinstance(label, bool):
            return None
        numbers = {name: number for number, one in enumerate(self.classes) for name in (one, str(number))}
        return numbers.get(str(label))


_PAIR = ("sentence1", "sentence2", "label")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = _Task(
    ("accuracy",),
    ("entailment", "neutral", "contradiction"),
    (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")),
)

_TASKS: Mapping[str, _Task] = {
    "cola": _Task(("matthews_correlation",), ("unacceptable", "acceptable"), (("sentence", "label"),)),
    "sst2": _Task(("accuracy",), ("negative", "positive"), (("sentence", "label"),)),
    "mrpc": _Task(("f1", "accuracy"), ("not_equivalent", "equivalent"), (_PAIR, ("#1 String", "#2 String", "Quality"))),
    "qqp": _Task(
        ("f1", "accuracy"),
        ("not_duplicate", "duplicate"),
        (("question1", "question2", "label"), ("question1", "question2", "is_duplicate")),
    ),
    "stsb": _Task(("pearson", "spearman"), (), (_PAIR, ("sentence1", "sentence2", "score"))),
    "mnli": _MNLI,
    "mnli_matched": _MNLI,
    "mnli_mismatched": _MNLI,
    "qnli": _Task(("accuracy",), _ENTAILMENT, (("question", "sentence", "label"),)),
    "rte": _Task(("accuracy",), _ENTAILMENT, (_PAIR,)),
    "wnli": _Task(("accuracy",), ("not_entailment", "entailment"), (_PAIR,)),
}

_HIGHEST = 5.0
"""The highest score of STS-B; the lowest is 0."""

_HIDDEN = "GLUE's test rows have no labels: take its validation rows"


class OtherTaskError(RowFaultError):
    """A run labels something else than the task, so that no row can be asked."""

    is_last = True


class GlueSuite(Suite):
    """The figures of a task of GLUE (Wang et al. 2019), as its leaderboard and `evaluate` compute them.

    Rows have the columns of the run, those of the dataset on the hub, or those of GLUE's own files. Labels are GLUE's
    numbers or names; the labels of the run, in any order, have to be one of these.
    """

    kind: Literal["glue"] = "glue"
    task: GlueTask
    """Name of the task. It is also the name of the suite."""

    asks: ClassVar[Asks] = "label"

    @property
    def title(self) -> str:
        """Name in reports and gates: that of the task, unless it has its own."""
        return self.name or self.task

    @property
    def _task(self) -> _Task:
        return _TASKS[self.task]

    def shown(self, gold: Gold, answer: Any) -> str:
        """A class, or a score."""
        del gold
        return f"{answer:.4g}" if isinstance(answer, float) else str(answer)

    def in_columns_of(self, form: Format, labels: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
        """A row with its texts and its label in the columns of a run, and the label by the name that the run uses.

        Args:
            form: the format of the run.
            labels: the labels of the run in any order; empty if they are not known yet, or are scores.
            values: the row.

        Raises:
            OtherTaskError: if the run labels something else than the task.
            RowFaultError: if the row lacks a column, or its label is none of the task.
        """
        columns = self._fitting(form, labels)
        texts = (columns.text_column or "text", columns.text_pair_column)
        own = [*(name for name in texts if name), columns.label_column]
        read = next((each for each in (own, *self._task.columns) if all(is_there(values, name) for name in each)), None)
        if read is None:
            lacking = listed([name for name in self._task.columns[0] if not is_there(values, name)])
            remedy = f"rename those of the file, which are {listed(list(values))}"
            raise RowFaultError(f"no {lacking}, which rows of `{self.task}` have", remedy)
        cells = [find(values, name) for name in read]
        cells[-1] = self._label(read[-1], cells[-1], labels)
        return {**values, **dict(zip(own, cells, strict=True))}

    def _fitting(self, form: Format, labels: Sequence[str]) -> Columns:
        """The columns of a run that labels what the task labels. Raises `OtherTaskError`."""
        task, train = self._task, "train on rows of the task, or choose another task"
        wanted = "single_label_classification" if task.classes else "regression"
        if not isinstance(form, TextClassification) or form.problem_type != wanted:
            kind = form.problem_type if isinstance(form, TextClassification) else form.name
            raise OtherTaskError(f"`{self.task}` is `{wanted}`, and the run was trained for `{kind}`", train)
        is_pair, pairs = form.columns.text_pair_column is not None, len(task.columns[0]) == 3
        if is_pair != pairs:
            kinds = {True: "pairs of texts", False: "single texts"}
            raise OtherTaskError(
                f"rows of `{self.task}` are {kinds[pairs]}, and the run labels {kinds[is_pair]}", train
            )
        numbers = [task.number(label) for label in labels]
        if labels and task.classes and sorted(str(one) for one in numbers) != [*map(str, range(len(task.classes)))]:
            what = f"the classes of `{self.task}` are {listed(task.classes)}, and those of the run {listed(labels)}"
            raise OtherTaskError(what, "name them so in `classification.labels`, or choose another task")
        return form.columns

    def _label(self, column: str, value: Any, labels: Sequence[str]) -> Any:
        """The label of a row by the name that the run uses. Raises `RowFaultError`."""
        task = self._task
        if not task.classes:
            return _score(column, value)
        number = task.number(value)
        if number is None:
            choices = ", ".join(f"{at} ({name})" for at, name in enumerate(task.classes))
            what = f"`{column}` is {shown(value)}, which is no class of `{self.task}`"
            raise RowFaultError(what, f"write one of: {choices}; {_HIDDEN}")
        return next((label for label in labels if task.number(label) == number), str(number))

    def constants(self, usual: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """The constant answer by figure.

        Args:
            usual: the best constant answers on the training rows, by metric.
            labels: the labels of the run.
        """
        positive = next((label for label in labels if self._task.number(label) == 1), None)
        by_figure = {"f1": positive, "pearson": usual.get("rmse"), "spearman": usual.get("rmse")}
        found = {name: by_figure.get(name, usual.get("accuracy")) for name in self._task.figures}
        return {name: constant for name, constant in found.items() if constant is not None}

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The figures of the task."""
        expected = [gold.label for gold in golds]
        if not self._task.classes:
            return {"pearson": pearson(answers, expected), "spearman": spearman(answers, expected)}
        sides = list(self._numbers(answers)), list(self._numbers(expected))
        made: dict[str, Callable[[], Measure]] = {
            "accuracy": lambda: share([one == other for one, other in zip(*sides, strict=True)]),
            "f1": lambda: f1(*sides),
            "matthews_correlation": lambda: matthews(*sides),
        }
        return {name: made[name]() for name in self._task.figures}

    def _numbers(self, labels: Sequence[Any]) -> Iterator[int]:
        for label in labels:
            number = self._task.number(label)
            assert number is not None, label  # of the run, whose labels are those of the task
            yield number


def _score(column: str, value: Any) -> float:
    """A score of STS-B. Raises `RowFaultError`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= _HIGHEST:
        raise RowFaultError(f"`{column}` is {shown(value)}, and scores are from 0 to {_HIGHEST:g}", _HIDDEN)
    return number
