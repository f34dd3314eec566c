"""ms-swift's data sets: `[HF::|MS::]name[:subset][#rows]`, or files."""

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
    """Write where the rows are, as one data set or several, and which are set aside."""
    listed = draft.names("dataset")
    if not listed and not draft.is_refused("dataset"):
        draft.refuse_file("no `dataset`", "name the options that ms-swift trains with")
    tables = [_table(draft, one) for one in listed]
    if len(tables) == 1:
        for name, value in tables[0].items():
            recipe = f"dataset.{name}"
            (draft.path if name == "path" else draft.put)(recipe, value, "dataset")
    elif tables:
        _weights(draft, tables)
        draft.path("dataset.sources", tables, "dataset")
    if any("max_samples" in table for table in tables) and not draft.is_refused("dataset"):
        draft.amend("dataset", "the first rows are taken, and ms-swift draws them")
    for key in ("interleave_prob", "stopping_strategy"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "data sets follow one another")
    _columns(draft)
    streams = draft.flag("streaming")
    draft.put("dataset.streaming", streams, "streaming", own=False)
    if streams:
        draft.put("dataset.shuffle_buffer_size", draft.whole("shuffle_buffer_size", 1000), "shuffle_buffer_size")
    elif draft.has("shuffle_buffer_size"):
        draft.unused("shuffle_buffer_size", "nothing is streamed")
    _set_aside(draft)


def _table(draft: Draft, text: str) -> dict[str, Any]:
    """One data set: a file, or a name with its subset and its number of rows."""
    name, _, count = text.partition("#")
    table: dict[str, Any]
    if steps.is_local(name):
        table = {"path": name}
    else:
        name = name.removeprefix("HF::").removeprefix("MS::")
        name, _, subset = name.partition(":")
        table = {"name": name, **({"subset": subset} if subset not in ("", "default") else {})}
        if name.endswith("/self-cognition"):
            draft.refuse("dataset", "its rows have gaps that ms-swift fills in", "save them as a file, filled in", True)
    if count:
        if count.isdecimal() and 0 < len(count) < 10 and int(count) > 0:
            table["max_samples"] = int(count)
        else:
            draft.refuse("dataset", f"`#{count}` is no number of rows", "write one, such as `#1000`")
    return table


def _weights(draft: Draft, tables: list[dict[str, Any]]) -> None:
    """Shares of the mixture, which is one data set after the other without them."""
    key = "interleave_prob"
    shares = draft.read(key, plain)
    if shares is None:
        return
    listed = shares if isinstance(shares, list) else [shares]
    if len(listed) != len(tables):
        draft.refuse(key, "not a number for each data set", "write as many as there are")
        return
    for table, share in zip(tables, listed, strict=True):
        table["weight"] = number(share)
    draft.put("dataset.sources", tables, key)
    way = draft.text("stopping_strategy", "first_exhausted")
    draft.put("dataset.stopping_strategy", way, "stopping_strategy", own="first_exhausted")


_OURS: Mapping[str, tuple[str, str]] = {
    "query": ("question-answer", "question"),
    "response": ("question-answer", "answer"),
    "messages": ("messages", "messages"),
    "conversations": ("sharegpt", "conversations"),
    "instruction": ("alpaca", "instruction"),
    "output": ("alpaca", "output"),
    "input": ("alpaca", "input"),
}
"""ms-swift's names of columns, with lorans's formats and theirs."""


def _columns(draft: Draft) -> None:
    """Other names of columns, which ms-swift writes the other way round."""
    key = "columns"
    named = draft.get(key)
    if named is None:
        return
    found = [_OURS.get(str(value)) for value in named.values()] if isinstance(named, dict) else [None]
    kept = [one for one in found if one is not None]
    if len(kept) < len(found) or len({form for form, _ in kept}) != 1:
        what = "lorans has other names for these columns"
        draft.refuse(key, what, "write them by `dataset.format` and `dataset.columns`", fatal=True)
        return
    draft.put("dataset.format", kept[0][0], key)
    draft.put("dataset.columns", {ours: name for (_, ours), name in zip(kept, named, strict=True)}, key)


def _set_aside(draft: Draft) -> None:
    """Evaluation rows: a share of the training rows, or a file; and how often they are looked at."""
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    when = draft.text(key, draft.text("save_strategy", "steps"))
    share, tests = draft.number("split_dataset_ratio", 0), draft.names("val_dataset")
    if tests:
        _test_file(draft, tests)
    if when == "no" or tests or not 0 < share < 1:
        why = "there is no evaluation" if when == "no" else "`val_dataset` takes its place" if tests else ""
        if draft.has("split_dataset_ratio"):
            if why:
                draft.unused("split_dataset_ratio", why)
            elif share == 0:
                draft.same("split_dataset_ratio", "no rows are set aside")
            else:
                draft.refuse("split_dataset_ratio", "not a share of the rows", "write one, such as 0.01")
    else:
        said = "ms-swift sets other rows aside"
        draft.put("dataset.eval_fraction", float(share), "split_dataset_ratio", said=said)
    has_rows = any(f"dataset.{name}" in draft.recipe for name in ("eval_fraction", "eval_path"))
    if has_rows:
        steps.interval(draft, "eval_steps", key, "training.eval_steps")
    for name in ("eval_steps", "eval_strategy", "evaluation_strategy"):
        if draft.has(name) and not draft.is_accounted(name):
            draft.unused(name, f"`{key}` says when" if has_rows else "there are no evaluation rows")


def _test_file(draft: Draft, tests: list[str]) -> None:
    if all(steps.is_local(one.partition("#")[0]) and "#" not in one for one in tests):
        draft.path("dataset.eval_path", tests if len(tests) > 1 else tests[0], "val_dataset")
    else:
        draft.refuse("val_dataset", "lorans takes evaluation rows from whole files", "save them as a file")
