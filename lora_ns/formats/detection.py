"""Detection of the row format, from the recipe or from the columns."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lora_ns.errors import did_you_mean
from lora_ns.formats.base import (
    TEXT,
    Columns,
    Format,
    Labelled,
    LabelledCompletion,
    Preference,
    Prompt,
    RowFaultError,
    Tagged,
    Values,
)
from lora_ns.formats.cells import Cells, cells_of, column_of, is_seen, listed, template_columns
from lora_ns.formats.classification import TextClassification
from lora_ns.formats.labelled_completion import LabelledCompletions
from lora_ns.formats.messages import Messages
from lora_ns.formats.plain import PlainPromptCompletion
from lora_ns.formats.preference import PreferencePairs
from lora_ns.formats.prompts import Prompts
from lora_ns.formats.registry import FORMATS, FormatClass
from lora_ns.formats.tokens import TokenClassification


def makes_one_of(kind: FormatClass, examples: Collection[type]) -> bool:
    """True if rows of a format become examples of one of these kinds."""
    return any(made in examples for made in kind.makes)


PREFERENCES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"), ("response_j", "response_k"))
"""Column pairs of preference data: the preferred and the rejected answer."""


VERDICTS = ("label", "kto_tag")
"""Columns that may say of an answer whether it is good."""


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
    """Detect the format of rows, and give the reason.

    Args:
        columns: keys of `[dataset]` about columns.
        names: column names of the data.
        first: the first row.
        examples: kinds of examples that the objective trains on.

    Raises:
        RowFaultError: if no format or more than one matches, or the data lacks a column that the recipe names.
    """
    names = [name for name in names if name not in columns.ignore_columns]
    _check_named_columns(columns, names)
    if Labelled in examples:
        return _detect_classification(columns, names)
    own = {
        Tagged: _detect_tokens,
        LabelledCompletion: _detect_completions,
        Preference: _detect_pairs,
        Prompt: _detect_prompts,
    }
    if kind := next((kind for kind in own if kind in examples), None):
        return own[kind](columns, names, first)
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
    """Column names that formats see: those of the data, with the mapping of the recipe applied."""
    named = [name for name in columns.columns if name not in names]
    return [*(name for name in names if is_seen(name, columns.columns)), *named]


def _fitting(seen: Sequence[str], names: Sequence[str]) -> FormatClass:
    """The format that the columns identify. Raises `RowFaultError` if there is none, or more than one."""
    kinds = FORMATS.values()
    found = {kind: sign for kind in kinds if (sign := _first_in(seen, kind.signs))}
    if len(found) > 1:
        matches = " and ".join(f"{kind.name} ({listed(sign)})" for kind, sign in found.items())
        choice = " or ".join(f'`format = "{kind.name}"`' for kind in found)
        raise RowFaultError(f"the columns match several formats: {matches}", f"write {choice}")
    if found:
        return next(iter(found))
    if late := next((kind for kind in kinds if _first_in(seen, kind.late_signs)), None):
        return late
    raise RowFaultError(
        f"no format matches the columns {listed(names)}",
        "write `prompt_template` and `completion_template` with `{column}` in them, "
        'or map the columns, such as `columns = {question = "...", answer = "..."}`',
    )


def _first_in(seen: Sequence[str], signs: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first set of columns that is present; empty if none is."""
    return next((sign for sign in signs if set(sign) <= set(seen)), ())


def _opened(kind: FormatClass, columns: Columns, names: Sequence[str], first: Values) -> Format:
    """Instantiate a format with its columns mapped to those of the data."""
    for key in columns.columns:
        if key not in kind.reads and key not in kind.aliases:
            known = listed([*kind.reads, *kind.aliases])
            what = f"the format `{kind.name}` has no such column"
            raise RowFaultError(what, f"known: {known}", key=f"columns.{key}")
    return kind(replace(columns, columns=_without_aliases(kind, columns, names, cells_of(first, columns))))


def _without_aliases(kind: FormatClass, columns: Columns, names: Sequence[str], first: Cells) -> Mapping[str, str]:
    """Map the format's column names to those of the data. The recipe's mapping takes precedence over aliases.

    If two columns have the same meaning and the same value in the first row, as in CodeAlpaca, either is used.
    """
    seen = _seen(columns, names)
    own = dict(columns.columns)
    for alias, name in kind.aliases.items():
        if alias in own and name in own:
            what = f"`{alias}` and `{name}` are two names for the same column"
            raise RowFaultError(what, "keep one of them", key=f"columns.{alias}")
        if alias in own:
            own[name] = own.pop(alias)
        elif alias in seen and name not in seen:
            own[name] = alias
        elif alias in seen and name not in own and first.get(alias) != first.get(name):
            what = f"the columns `{name}` and `{alias}` have the same meaning, but different values"
            raise RowFaultError(what, f'choose one, such as `columns = {{{name} = "{alias}"}}`')
    return own


def _reason(form: Format, names: Sequence[str]) -> str:
    """List the columns that a format reads, by their names in the data."""
    read = form.used(names)
    return f"column{'s' if len(read) > 1 else ''} {listed(read)}"


def _is_read(name: str, columns: Columns, names: Sequence[str]) -> bool:
    """True if the data has a column for a name of the format."""
    return column_of(columns.columns.get(name, name), names) in names and is_seen(name, columns.columns)


def _refuse_preferences(seen: Sequence[str], cells: Cells) -> None:
    """Refuse preference data: rejected answers would be trained on like preferred ones."""
    prompts = [name for name in ("prompt", "conversations", "messages") if name in seen]
    for pair in PREFERENCES:
        if set(pair) <= set(seen):
            remedy = "write `[dpo]` to train on both answers, or map the good one with `columns`"
            _refuse([*prompts, *pair], cells, remedy)
    has_answer = "messages" in seen or "conversations" in seen or {"prompt", "completion"} <= set(seen)
    verdict = next((name for name in VERDICTS if name in seen and is_verdict(cells.get(name))), None)
    if has_answer and verdict:
        names = [*prompts, *(["completion"] if "prompt" in prompts and "completion" in seen else []), verdict]
        remedy = f"keep the good rows and remove `{verdict}`, or write `format` to train on all rows"
        _refuse(names, cells, f"write `[kto]` to train on good and bad answers, {remedy}")


def _refuse_single_messages(seen: Sequence[str]) -> None:
    """Refuse rows that are single messages: answers would be trained on without their questions."""
    if {"message_id", "parent_id", "role", "text"} <= set(seen):
        what = f"columns {listed(['message_id', 'parent_id', 'role', 'text'])}: each row is a single message of a tree"
        remedy = "use the file of trees, such as `2023-04-12_oasst_ready.trees.jsonl.gz` of OpenAssistant/oasst1"
        raise RowFaultError(what, remedy)


def _refuse(names: Sequence[str], cells: Cells, remedy: str) -> None:
    own = listed([cells.own(name) for name in names])
    raise RowFaultError(f"columns {own}: `[sft]` would learn the bad answers of preference rows, too", remedy)


def is_verdict(label: Any) -> bool:
    """True if a value says whether an answer is good."""
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in {"true", "false"})


def _detect_pairs(columns: Columns, names: Sequence[str], first: Values) -> tuple[Format, str]:
    form = _opened(PreferencePairs, columns, names, first)
    known = [name for name in PreferencePairs.reads if _is_read(name, form.columns, names)]  # type: ignore[attr-defined]
    if "rejected" not in known:
        aliases = " or ".join(f"`{alias}`" for alias, own in PreferencePairs.aliases.items() if own == "rejected")
        found = f"no column `rejected` ({aliases}) among {listed(names)}"
        what = f"{found}: preference rows have a chosen and a rejected answer"
        raise RowFaultError(what, 'map it with `columns = {rejected = "..."}`')
    return form, _reason(form, names)


def _detect_completions(columns: Columns, names: Sequence[str], first: Values) -> tuple[Format, str]:
    """Labelled completions, or pairs that become two of them."""
    seen = _seen(columns, names)
    paired = "rejected" in {PreferencePairs.aliases.get(name, name) for name in seen}
    if columns.format == PreferencePairs.name or (columns.format == "auto" and paired):
        return _detect_pairs(columns, names, first)
    form = _opened(LabelledCompletions, columns, names, first)
    if not _is_read("label", form.columns, names):  # type: ignore[attr-defined]
        what = f"no column `label` (`kto_tag`) among {listed(names)}: each answer needs a label, true or false"
        remedy = 'map it with `columns = {label = "..."}`; rows with `chosen` and `rejected` work, too'
        raise RowFaultError(what, remedy)
    return form, _reason(form, names)


def _detect_prompts(columns: Columns, names: Sequence[str], first: Values) -> tuple[Format, str]:
    form = _opened(Prompts, columns, names, first)
    if columns.prompt_template is not None:
        return form, "templates in the recipe"
    asked = [name for name in Prompts.reads if name != "answer" and _is_read(name, form.columns, names)]  # type: ignore[attr-defined]
    if not {"prompt", "messages", "conversations", "instruction", "input"}.intersection(asked):
        others = " or ".join(f"`{alias}`" for alias, own in Prompts.aliases.items() if own == "prompt")
        what = f"no column `prompt` ({others}) among {listed(names)}"
        raise RowFaultError(what, 'map it with `columns = {prompt = "..."}`, or write `prompt_template`')
    own = form.columns.columns  # type: ignore[attr-defined]
    read = [*asked, *(["answer"] if _is_read("answer", form.columns, names) else [])]  # type: ignore[attr-defined]
    shown = [own.get(name, name) for name in read]
    return form, f"column{'s' if len(shown) > 1 else ''} {listed(shown)}"


def _detect_tokens(columns: Columns, names: Sequence[str], first: Values) -> tuple[Format, str]:
    kind = TokenClassification
    form = _opened(kind, columns, names, first)
    for name in kind.reads:
        if not _is_read(name, form.columns, names):  # type: ignore[attr-defined]
            others = " or ".join(f"`{alias}`" for alias, own in kind.aliases.items() if own == name)
            what = f"no column `{name}` ({others}) among {listed(names)}"
            raise RowFaultError(what, f'map it with `columns = {{{name} = "..."}}`')
    return form, _reason(form, names)


def _detect_classification(columns: Columns, names: Sequence[str]) -> tuple[Format, str]:
    if columns.label_column == "label" and "label" not in names and "labels" in names:
        columns = replace(columns, label_column="labels")
    if column_of(columns.label_column, names) not in names:
        raise RowFaultError(f"no column `{columns.label_column}` among {listed(names)}", "set `label_column`")
    if columns.text_column:
        shown = [columns.text_column, *([columns.text_pair_column] if columns.text_pair_column else [])]
        return TextClassification(columns), f"{listed(shown)} in the recipe"
    for text, pair in TEXT_PAIRS:
        if text in names and pair in names:
            return _classification(columns, text, pair)
    for text in TEXTS:
        if text in names:
            return _classification(columns, text, None)
    raise RowFaultError(f"no text column among {listed(names)}", "set `text_column`")


def _classification(columns: Columns, text: str, pair: str | None) -> tuple[Format, str]:
    found = Columns(columns.format, text_column=text, text_pair_column=pair, label_column=columns.label_column)
    return TextClassification(found), f"columns {listed([text, pair] if pair else [text])}"


def _check_named_columns(columns: Columns, names: Sequence[str]) -> None:
    for key, template in _required_templates(columns, names):
        for _, field, _, _ in string.Formatter().parse(template):
            if field is not None and column_of(field, names) not in names:
                what = f"names column `{field}`, which the data does not have"
                raise RowFaultError(what, _close(field, names), key=key)
    named = {key: getattr(columns, key) for key in ("text_column", "text_pair_column")}
    named |= {f"columns.{key}": name for key, name in columns.columns.items()}
    for key, name in named.items():
        if name and column_of(name, names) not in names:
            raise RowFaultError(f"`{name}` is not a column of the data", _close(name, names), key=key)


def _required_templates(columns: Columns, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Templates whose columns the data must have; of several prompts, one that it has if there is one."""
    prompts = columns.prompt_templates
    has_one = any(all(column_of(name, names) in names for name in template_columns(prompt)) for prompt in prompts)
    if prompts and not has_one:
        yield ("fallback_prompt_templates" if len(prompts) > 1 else "prompt_template"), prompts[-1]
    yield "completion_template", columns.completion_template or ""
    yield "system_template", columns.system_template or ""


def _close(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names, beside=f"columns: {', '.join(names)}")
