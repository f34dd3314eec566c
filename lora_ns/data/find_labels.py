"""Targets of a classifier: classes, labels, a score or tags, from the recipe and the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, ProblemType, RowFaultError, TextClassification, TokenClassification
from lora_ns.formats.cells import find, is_there
from lora_ns.formats.classification import infer_problem_type
from lora_ns.objectives import Classification, LabelObjective, Objective
from lora_ns.objectives.targets import OUTSIDE, listed_labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lora_ns.data.source import Source


def settle_problem_type(form: Format, rows: Sequence[Row], objective: Objective) -> tuple[Format, str]:
    """Determine the problem type from the recipe or the rows; returns the format with it, and the reason.

    Raises:
        DataError: if the recipe has keys that do not apply to it.
    """
    if not isinstance(form, TextClassification) or not isinstance(objective, Classification):
        return form, ""
    wanted = objective.problem_type
    column = form.columns.label_column
    if wanted != "auto":
        return replace(form, problem_type=wanted), ""
    found, why = infer_problem_type(column, (find(row.values, column) for row in rows if is_there(row.values, column)))
    if unread := objective.unread(found):
        what = f"`{unread[0]}` has no effect with {why or 'classes'}"
        remedy = "remove it, or write `problem_type`"
        raise DataError(Problem("", what, remedy, key=objective.key(unread[0])))
    return replace(form, problem_type=found), why


def with_problem_type(form: Format, problem_type: ProblemType | None) -> Format:
    """Return the format with another problem type, if it is for labelled texts."""
    return replace(form, problem_type=problem_type) if isinstance(form, TextClassification) and problem_type else form


def find_labels(source: Source, form: Format, objective: Objective) -> tuple[str, ...]:
    """Find the labels: from the recipe, else the dataset, else the rows; empty for text and scores.

    Labels from rows are sorted by name or number; among tags, `O` comes first.

    Raises:
        DataError: if there are too few, a row has none or an unclear one, or the number of class weights differs.
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
"""Label lists that may be one flag per label, for two labels; with three or more, a flag would appear twice."""


def check_named(rows: Sequence[Row], form: Format, name: str, labels: Sequence[str] = ()) -> None:
    """Refuse label lists that are 0/1 flags for two labels, which would be read as the names of both labels.

    One such list may be meant as both names. So may all, if they have the same order, unless these two are the only
    labels to learn.

    Args:
        rows: all rows of a source.
        form: format of the rows that do not have their own.
        name: name of the source in messages.
        labels: the labels learned from these rows; empty for evaluation rows.

    Raises:
        DataError: if no row has anything else.
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
            what = f"`{column}` has a 0 and a 1 in every row, so both labels would apply to all of them"
            remedy = (
                'write the names or numbers of the labels that apply, such as ["a"] or [1], [] for none; '
                "if both apply to every row, write their names"
            )
            raise DataError(Problem(name, what, remedy))


def _flags_of(form: Format, rows: Sequence[Row]) -> set[tuple[str, ...]]:
    """Return the 0/1 lists of the rows; empty if a row has any other label."""
    assert isinstance(form, TextClassification)
    found: set[tuple[str, ...]] = set()
    for row in rows:
        try:
            label = form.label(row.values)
        except RowFaultError:  # reported with its row
            return set()
        if label not in _FLAGS:
            return set()
        assert isinstance(label, tuple)
        found.add(label)
    return found


def problem_type_of(form: Format) -> ProblemType | None:
    """Return the problem type of a format; None if it has no labels. A tag is the single class of a word."""
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
        raise DataError(Problem(source.name, found, f"a classifier needs at least {'one' if several else 'two'}"))
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
