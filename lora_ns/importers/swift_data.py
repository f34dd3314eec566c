"""Translation of ms-swift's datasets: files, or names such as `[HF::|MS::]name[:subset][#rows]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.importers import steps
from lora_ns.importers.draft import Draft
from lora_ns.importers.values import number, plain

DATA_KEYS = (
    *("dataset", "val_dataset", "split_dataset_ratio", "columns", "streaming", "shuffle_buffer_size"),
    *("interleave_prob", "stopping_strategy", "eval_strategy", "evaluation_strategy", "eval_steps"),
)


def rows(draft: Draft) -> None:
    """Translate the location of the rows and of evaluation rows: one dataset, or several."""
    listed = draft.names("dataset")
    if not listed and not draft.is_refused("dataset"):
        draft.refuse_file(
            "no `dataset`: this configuration is not for training", "name the configuration of the training run"
        )
    tables = [_table(draft, one) for one in listed]
    if len(tables) == 1:
        for name, value in tables[0].items():
            recipe = f"dataset.{name}"
            (draft.path if name == "path" else draft.put)(recipe, value, "dataset")
    elif tables:
        _weights(draft, tables)
        draft.path("dataset.sources", tables, "dataset")
    if any("max_samples" in table for table in tables) and not draft.is_refused("dataset"):
        draft.amend("dataset", "lorans takes the first rows, ms-swift draws them at random")
    for key in ("interleave_prob", "stopping_strategy"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "the datasets are concatenated")
    _columns(draft)
    streams = draft.flag("streaming")
    draft.put("dataset.streaming", streams, "streaming", own=False)
    if streams:
        draft.put("dataset.shuffle_buffer_size", draft.whole("shuffle_buffer_size", 1000), "shuffle_buffer_size")
    elif draft.has("shuffle_buffer_size"):
        draft.unused("shuffle_buffer_size", "it only applies to streaming")
    _evaluation(draft)


def _table(draft: Draft, text: str) -> dict[str, Any]:
    """Translate one dataset: a file, or a name with its subset and its number of rows."""
    name, _, count = text.partition("#")
    table: dict[str, Any]
    if steps.is_local(name):
        table = {"path": name}
    else:
        name = name.removeprefix("HF::").removeprefix("MS::")
        name, _, subset = name.partition(":")
        table = {"name": name, **({"subset": subset} if subset not in ("", "default") else {})}
        if name.endswith("/self-cognition"):
            what = "its rows have placeholders that only ms-swift fills in"
            draft.refuse("dataset", what, "fill them in, and save the rows as a file", fatal=True)
    if count:
        if count.isdecimal() and 0 < len(count) < 10 and int(count) > 0:
            table["max_samples"] = int(count)
        else:
            draft.refuse("dataset", f"`#{count}` is not a number of rows", "write a number, such as `#1000`")
    return table


def _weights(draft: Draft, tables: list[dict[str, Any]]) -> None:
    """Translate the shares of an interleaved mixture; without them, ms-swift concatenates the datasets."""
    key = "interleave_prob"
    shares = draft.read(key, plain)
    if shares is None:
        return
    listed = shares if isinstance(shares, list) else [shares]
    if len(listed) != len(tables):
        draft.refuse(key, "not one number for each dataset", f"write {len(tables)} numbers")
        return
    for table, share in zip(tables, listed, strict=True):
        table["weight"] = number(share)
    draft.put("dataset.sources", tables, key)
    way = draft.text("stopping_strategy", "first_exhausted")
    draft.put("dataset.stopping_strategy", way, "stopping_strategy", own="first_exhausted")


_COLUMN_NAMES: Mapping[str, tuple[str, str]] = {
    "query": ("question-answer", "question"),
    "response": ("question-answer", "answer"),
    "messages": ("messages", "messages"),
    "conversations": ("sharegpt", "conversations"),
    "instruction": ("alpaca", "instruction"),
    "output": ("alpaca", "output"),
    "input": ("alpaca", "input"),
}
"""Formats of lorans and their columns, by ms-swift's names of the columns."""


def _columns(draft: Draft) -> None:
    """Translate the names of columns; ms-swift maps a dataset's names to its own, lorans the other way round."""
    key = "columns"
    named = draft.get(key)
    if named is None:
        return
    found = [_COLUMN_NAMES.get(str(value)) for value in named.values()] if isinstance(named, dict) else [None]
    known = [one for one in found if one is not None]
    if len(known) < len(found) or len({form for form, _ in known}) != 1:
        what = "these columns do not belong to one of lorans's formats"
        draft.refuse(key, what, "write the recipe yourself, with `dataset.format` and `dataset.columns`", fatal=True)
        return
    draft.put("dataset.format", known[0][0], key)
    draft.put("dataset.columns", {ours: name for (_, ours), name in zip(known, named, strict=True)}, key)


def _evaluation(draft: Draft) -> None:
    """Translate the source of evaluation rows, and the interval between evaluations."""
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    when = draft.text(key, draft.text("save_strategy", "steps"))
    share, tests = draft.number("split_dataset_ratio", 0), draft.names("val_dataset")
    if tests:
        _test_file(draft, tests)
    if when == "no" or tests or not 0 < share < 1:
        why = "evaluation is off" if when == "no" else "`val_dataset` takes precedence" if tests else ""
        if draft.has("split_dataset_ratio"):
            if why:
                draft.unused("split_dataset_ratio", why)
            elif share == 0:
                draft.same("split_dataset_ratio", "no evaluation rows")
            else:
                draft.refuse("split_dataset_ratio", "not a fraction of the rows", "write a fraction, such as 0.05")
    else:
        said = "ms-swift draws other rows"
        draft.put("dataset.eval_fraction", float(share), "split_dataset_ratio", said=said)
    has_rows = any(f"dataset.{name}" in draft.recipe for name in ("eval_fraction", "eval_path"))
    if has_rows:
        steps.interval(draft, "eval_steps", key, "training.eval_steps")
    for name in ("eval_steps", "eval_strategy", "evaluation_strategy"):
        if draft.has(name) and not draft.is_accounted(name):
            draft.unused(name, f"`{key}` takes precedence" if has_rows else "there are no evaluation rows")


def _test_file(draft: Draft, tests: list[str]) -> None:
    if all(steps.is_local(one.partition("#")[0]) and "#" not in one for one in tests):
        draft.path("dataset.eval_path", tests if len(tests) > 1 else tests[0], "val_dataset")
    else:
        draft.refuse("val_dataset", "lorans takes evaluation rows from whole files only", "save them as a file")
