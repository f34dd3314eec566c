"""Which format rows are in: told by the recipe, or by their columns."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lora_ns.errors import did_you_mean
from lora_ns.formats.base import TEXT, Columns, Format, Labelled, RowFaultError, Tagged, Values
from lora_ns.formats.cells import Cells, cells_of, column_of, is_seen, listed
from lora_ns.formats.classification import TextClassification
from lora_ns.formats.messages import Messages
from lora_ns.formats.plain import PlainPromptCompletion
from lora_ns.formats.registry import FORMATS, FormatClass
from lora_ns.formats.tokens import TokenClassification


def makes_one_of(kind: FormatClass, examples: Collection[type]) -> bool:
    """Whether rows of a format become examples of one of these kinds."""
    return any(made in examples for made in kind.makes)


PREFERENCES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"), ("response_j", "response_k"))
"""The good and the bad answer."""


TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)


TEXTS = ("text", "sentence", "review", "content")


def detect(
    columns: Columns, names: Sequence[str], first: Values, examples: Collection[type] = TEXT
) -> tuple[Format, str]:
    """The format of rows with these column names, and the reason.

    Args:
        columns: what the recipe says of them.
        names: of the columns that are there.
        first: the first row.
        examples: kinds of examples that the objective learns from.

    Raises:
        RowFaultError: if nothing fits or more than one format does, or a column that the recipe names is not there.
    """
    names = [name for name in names if name not in columns.ignore_columns]
    _check_named_columns(columns, names)
    if Labelled in examples:
        return _detect_classification(columns, names)
    if Tagged in examples:
        return _detect_tokens(columns, names, first)
    if columns.format != "auto":
        return _opened(FORMATS[columns.format], columns, names, first), f'`format = "{columns.format}"`'
    if columns.prompt_template is not None:
        return PlainPromptCompletion(columns), "templates in the recipe"
    seen = _seen(columns, names)
    cells = cells_of(first, columns)
    _refuse_preferences(seen, cells)
    _refuse_single_messages(seen)
    kind = _fitting(seen, names)
    if kind is PlainPromptCompletion and isinstance(cells.get("prompt"), list):
        kind = Messages
    form = _opened(kind, columns, names, first)
    return form, _reason(form, names)


def _seen(columns: Columns, names: Sequence[str]) -> list[str]:
    """The columns by the names under which formats see them."""
    named = [name for name in columns.columns if name not in names]
    return [*(name for name in names if is_seen(name, columns.columns)), *named]


def _fitting(seen: Sequence[str], names: Sequence[str]) -> FormatClass:
    """The one format that the columns tell."""
    kinds = FORMATS.values()
    found = {kind: sign for kind in kinds if (sign := _first_in(seen, kind.signs))}
    if len(found) > 1:
        told = " and ".join(f"{kind.name} ({listed(sign)})" for kind, sign in found.items())
        choice = " or ".join(f'`format = "{kind.name}"`' for kind in found)
        raise RowFaultError(f"the columns are those of {told}", f"write {choice}")
    if found:
        return next(iter(found))
    if late := next((kind for kind in kinds if _first_in(seen, kind.late_signs)), None):
        return late
    raise RowFaultError(
        f"no format has the columns {listed(names)}",
        "say how a row becomes text: `prompt_template` and `completion_template` with `{column}` in them, "
        'or its columns, such as `columns = {question = "...", answer = "..."}`',
    )


def _first_in(seen: Sequence[str], signs: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first of some signs whose columns are all there."""
    return next((sign for sign in signs if set(sign) <= set(seen)), ())


def _opened(kind: FormatClass, columns: Columns, names: Sequence[str], first: Values) -> Format:
    """The format with the data's names of its columns."""
    for key in columns.columns:
        if key not in kind.reads and key not in kind.aliases:
            known = listed([*kind.reads, *kind.aliases])
            what = f"rows of {kind.name} have no such column"
            raise RowFaultError(what, f"known: {known}", key=f"columns.{key}")
    return kind(replace(columns, columns=_without_aliases(kind, columns, names, cells_of(first, columns))))


def _without_aliases(kind: FormatClass, columns: Columns, names: Sequence[str], first: Cells) -> Mapping[str, str]:
    """By the format's own names, the data's; what the recipe names comes before what is found.

    Of two columns for one name that say the same in the first row, such as CodeAlpaca's answers, either will do.
    """
    seen = _seen(columns, names)
    own = dict(columns.columns)
    for alias, name in kind.aliases.items():
        if alias in own and name in own:
            what = f"`{alias}` and `{name}` are two names of the same column"
            raise RowFaultError(what, "keep one of them", key=f"columns.{alias}")
        if alias in own:
            own[name] = own.pop(alias)
        elif alias in seen and name not in seen:
            own[name] = alias
        elif alias in seen and name not in own and first.get(alias) != first.get(name):
            what = f"the columns `{name}` and `{alias}` are both there, and differ"
            raise RowFaultError(what, f'name the one to read: `columns = {{{name} = "{alias}"}}`')
    return own


def _reason(form: Format, names: Sequence[str]) -> str:
    """The columns that a format reads, by the data's names."""
    read = form.used(names)
    return f"column{'s' if len(read) > 1 else ''} {listed(read)}"


def _is_read(name: str, columns: Columns, names: Sequence[str]) -> bool:
    """Whether the data has the column that is read under a format's name."""
    return column_of(columns.columns.get(name, name), names) in names and is_seen(name, columns.columns)


def _refuse_preferences(seen: Sequence[str], cells: Cells) -> None:
    """Refuse rows whose answers are good and bad, which would all be learned as good."""
    asked = [name for name in ("prompt", "conversations", "messages") if name in seen]
    for pair in PREFERENCES:
        if set(pair) <= set(seen):
            _refuse([*asked, *pair], cells, "give rows with one answer, or name its columns by `columns`")
    has_answer = "messages" in seen or "conversations" in seen or {"prompt", "completion"} <= set(seen)
    if has_answer and _is_verdict(cells.get("label")):
        told = [*asked, *(["completion"] if "prompt" in asked and "completion" in seen else []), "label"]
        _refuse(told, cells, "keep the rows that are good without `label`, or write `format` to learn from all")


def _refuse_single_messages(seen: Sequence[str]) -> None:
    """Refuse rows that are a message each, which would be learned without what they answer."""
    if {"message_id", "parent_id", "role", "text"} <= set(seen):
        what = f"columns {listed(['message_id', 'parent_id', 'role', 'text'])}: these are single messages of trees"
        remedy = "take the file of trees, such as `2023-04-12_oasst_ready.trees.jsonl.gz` of OpenAssistant/oasst1"
        raise RowFaultError(what, remedy)


def _refuse(names: Sequence[str], cells: Cells, remedy: str) -> None:
    told = listed([cells.own(name) for name in names])
    raise RowFaultError(f"columns {told}: these are preference rows, which this version does not train on", remedy)


def _is_verdict(label: Any) -> bool:
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in {"true", "false"})


def _detect_tokens(columns: Columns, names: Sequence[str], first: Values) -> tuple[Format, str]:
    kind = TokenClassification
    form = _opened(kind, columns, names, first)
    for name in kind.reads:
        if not _is_read(name, form.columns, names):  # type: ignore[attr-defined]
            others = " or ".join(f"`{alias}`" for alias, own in kind.aliases.items() if own == name)
            what = f"no column `{name}` ({others}) among {listed(names)}"
            raise RowFaultError(what, f'name it by `columns = {{{name} = "..."}}`')
    return form, _reason(form, names)


def _detect_classification(columns: Columns, names: Sequence[str]) -> tuple[Format, str]:
    if columns.label_column == "label" and "label" not in names and "labels" in names:
        columns = replace(columns, label_column="labels")
    if column_of(columns.label_column, names) not in names:
        raise RowFaultError(f"no column `{columns.label_column}` among {listed(names)}", "name it by `label_column`")
    if columns.text_column:
        shown = [columns.text_column, *([columns.text_pair_column] if columns.text_pair_column else [])]
        return TextClassification(columns), f"{listed(shown)} in the recipe"
    for text, pair in TEXT_PAIRS:
        if text in names and pair in names:
            return _classification(columns, text, pair)
    for text in TEXTS:
        if text in names:
            return _classification(columns, text, None)
    raise RowFaultError(f"no text among the columns {listed(names)}", "name it by `text_column`")


def _classification(columns: Columns, text: str, pair: str | None) -> tuple[Format, str]:
    found = Columns(columns.format, text_column=text, text_pair_column=pair, label_column=columns.label_column)
    return TextClassification(found), f"columns {listed([text, pair] if pair else [text])}"


def _check_named_columns(columns: Columns, names: Sequence[str]) -> None:
    for key in ("prompt_template", "completion_template", "system_template"):
        for _, field, _, _ in string.Formatter().parse(getattr(columns, key) or ""):
            if field is not None and column_of(field, names) not in names:
                what = f"names column `{field}`, which the data does not have"
                raise RowFaultError(what, _close(field, names), key=key)
    named = {key: getattr(columns, key) for key in ("text_column", "text_pair_column")}
    named |= {f"columns.{key}": name for key, name in columns.columns.items()}
    for key, name in named.items():
        if name and column_of(name, names) not in names:
            raise RowFaultError(f"`{name}` is not a column of the data", _close(name, names), key=key)


def _close(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names, beside=f"columns: {', '.join(names)}")
