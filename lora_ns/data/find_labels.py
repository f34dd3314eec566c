"""What a classifier is to predict: classes, labels, a score, or tags, as the recipe and the rows have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, ProblemType, RowFaultError, TextClassification, TokenClassification
from lora_ns.formats.cells import find, is_there
from lora_ns.formats.classification import told_problem_type
from lora_ns.objectives import Classification, LabelObjective, Objective
from lora_ns.objectives.targets import OUTSIDE, listed_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_ns.data.source import Source


def settle_problem_type(form: Format, rows: Sequence[Row], objective: Objective) -> tuple[Format, str]:
    """The format with what its labels are, as the recipe says or else as the rows show, and the reason.

    Raises:
        DataError: if the recipe has keys that do not go with it.
    """
    if not isinstance(form, TextClassification) or not isinstance(objective, Classification):
        return form, ""
    asked = objective.problem_type
    column = form.columns.label_column
    if asked != "auto":
        return replace(form, problem_type=asked), ""
    found, why = told_problem_type(column, (find(row.values, column) for row in rows if is_there(row.values, column)))
    if unread := objective.unread(found):
        what = f"`{unread[0]}` has no effect with {why or 'classes'}"
        remedy = "remove it, or write `problem_type`"
        raise DataError(Problem("", what, remedy, key=objective.key(unread[0])))
    return replace(form, problem_type=found), why


def with_problem_type(form: Format, problem_type: ProblemType | None) -> Format:
    """The format with labels of another kind, if it is one of texts with labels."""
    return replace(form, problem_type=problem_type) if isinstance(form, TextClassification) and problem_type else form


def find_labels(source: Source, form: Format, objective: Objective) -> tuple[str, ...]:
    """The labels: those that the recipe names, else the data set, else those of its rows; none for text and scores.

    Those of the rows are in the order of their names or numbers; `O` is the first of tags.

    Raises:
        DataError: if there are too few, a row has none, none is named, or the recipe has another number of weights.
    """
    if problem_type_of(form) in {None, "regression"} or not isinstance(objective, LabelObjective):
        return ()
    labels = objective.labels or _named_labels(source, form) or _labels_of_rows(source, form)
    check_named(source.rows, form, source.name, labels)
    weights, key = objective.class_weights, objective.key("class_weights")
    if isinstance(weights, tuple) and len(weights) != len(labels):
        what = f"{len(weights)} weights for {len(labels)} labels: {listed_labels(labels)}"
        raise DataError(Problem("", what, "give one for each, in this order", key=key))
    return labels


_FLAGS = {("0", "1"), ("1", "0")}
"""Lists of labels that may be a 0 or 1 for each of two labels; one for three or more has a number twice."""


def check_named(rows: Sequence[Row], form: Format, name: str, labels: Sequence[str] = ()) -> None:
    """Refuse lists that say of each of two labels whether it holds, and would be read as the names of both.

    One such list may name both; so may all in one order, unless they are all there is to learn of these two.

    Args:
        rows: all of a source.
        form: how they are read, unless a row says it.
        name: what messages call the source.
        labels: those that are learned from these rows; none for rows that are evaluated.

    Raises:
        DataError: if nothing else is in any row.
    """
    kinds: dict[int, list[Row]] = {}
    for row in rows:
        kinds.setdefault(id(row.form), []).append(row)
    for group in kinds.values():
        read = group[0].form or form
        if problem_type_of(read) != "multi_label_classification":
            continue
        found = _flags_of(read, group)
        if len(found) == len(_FLAGS) or (found and len(labels) == 2 and len(kinds) == 1):
            column = read.columns.label_column  # type: ignore[attr-defined]
            what = f"`{column}` has a 0 and a 1 in every row, by which both labels would hold in all of them"
            remedy = (
                'write the names or the numbers of those that hold, such as ["a"] or [1], [] for none; '
                "if both do hold in every row, write their names"
            )
            raise DataError(Problem(name, what, remedy))


def _flags_of(form: Format, rows: Sequence[Row]) -> set[tuple[str, ...]]:
    """The lists of a 0 and a 1 that the rows have; none if one of them has another label."""
    assert isinstance(form, TextClassification)
    found: set[tuple[str, ...]] = set()
    for row in rows:
        try:
            label = form.label(row.values)
        except RowFaultError:  # it is told with its row
            return set()
        if label not in _FLAGS:
            return set()
        assert isinstance(label, tuple)
        found.add(label)
    return found


def problem_type_of(form: Format) -> ProblemType | None:
    """What the labels of a format are; None if it has none. A tag is the one class of a word."""
    if isinstance(form, TextClassification):
        return form.problem_type
    return "single_label_classification" if isinstance(form, TokenClassification) else None


def _named_labels(source: Source, form: Format) -> tuple[str, ...]:
    is_tagged = isinstance(form, TokenClassification)
    column = form.tag_column if is_tagged else form.columns.label_column  # type: ignore[attr-defined]
    return source.classes.get(column, ())


def _labels_of_rows(source: Source, form: Format) -> tuple[str, ...]:
    counts = Counter(
        label for row in for_each(source.rows, lambda row: _of_row(row.form or form, row)) for label in row
    )
    several = isinstance(form, TextClassification) and form.problem_type == "multi_label_classification"
    if len(counts) < (1 if several else 2):
        kind = "tag" if isinstance(form, TokenClassification) else "class"
        found = f"only one {kind}, `{next(iter(counts))}`" if counts else "no label in any row"
        raise DataError(Problem(source.name, found, f"a classifier needs {'one' if several else 'two'} at least"))
    return _ordered(counts)


def _of_row(form: Format, row: Row) -> Sequence[str]:
    if isinstance(form, TokenClassification):
        return form.example(row.values).tags
    assert isinstance(form, TextClassification)
    label = form.label(row.values)
    return label if isinstance(label, tuple) else (str(label),)


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    found = set(names)
    if all(name.lstrip("-").isdigit() for name in found):
        return tuple(sorted(found, key=int))
    outside = [OUTSIDE] if OUTSIDE in found else []
    return (*outside, *sorted(found - {OUTSIDE}))
