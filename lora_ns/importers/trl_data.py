"""TRL's rows: a data set of the hub, or a mixture of several, as TRL and the alignment handbook write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.importers import steps
from lora_ns.importers.draft import Draft

DATA_KEYS = (
    *("dataset_name", "dataset_config", "dataset_config_name", "dataset_train_split", "dataset_test_split"),
    *("dataset_streaming", "dataset_text_field", "datasets", "streaming", "test_split_size", "dataset_mixture"),
    *("dataset_mixer", "dataset_splits", "dataset_configs"),
    *("eval_strategy", "evaluation_strategy", "eval_steps"),
)


def rows(draft: Draft) -> None:
    """Write where the rows are: `datasets`, `dataset_mixture`, `dataset_mixer` or `dataset_name`, the first there."""
    ways = {
        "datasets": lambda: _mixture(draft, "datasets", is_handbook=False),
        "dataset_mixture": lambda: _mixture(draft, "dataset_mixture.datasets", is_handbook=True),
        "dataset_mixer": lambda: _mixer(draft),
        "dataset_name": lambda: _one(draft),
    }
    chosen = next((key for key in ways if draft.has(key)), None)
    if chosen is None:
        draft.refuse_file("nothing names the rows", "`dataset_name`, or `datasets` with `- path: ...`")
        for key in DATA_KEYS:
            if draft.has(key):
                draft.unused(key, "nothing names the rows")
        return
    ways[chosen]()
    for key in ways:
        if key != chosen and draft.has(key):
            draft.unused(key, f"`{chosen}` takes its place")
    _streaming(draft, "dataset_streaming" if chosen == "dataset_name" else "streaming")
    splits = {"dataset_mixture": "dataset_mixture.test_split_size", "datasets": "test_split_size"}
    if chosen in splits:
        _test_split(draft, splits[chosen])
    for way, names in _OF_WAYS.items():
        for name in names:
            if draft.has(name) and not draft.is_accounted(name):
                draft.unused(name, f"`{chosen}` takes its place" if way != chosen else "it is read of other rows only")
    _evaluation(draft)


_OF_WAYS: Mapping[str, Sequence[str]] = {
    "datasets": ("streaming", "test_split_size"),
    "dataset_mixer": ("dataset_splits", "dataset_configs"),
    "dataset_name": (
        *("dataset_config", "dataset_config_name", "dataset_train_split", "dataset_test_split", "dataset_streaming"),
    ),
}
"""Keys that are read with one way of naming the rows alone."""


def _one(draft: Draft) -> None:
    """`dataset_name` with its configuration and its splits."""
    name = draft.text("dataset_name")
    if name is None:
        return
    split = draft.text("dataset_train_split", "train")
    if steps.is_local(name):
        draft.path("dataset.path", name, "dataset_name")
        if split != "train":
            what = "files have no splits"
            draft.refuse("dataset_train_split", what, "name the file of that split as `dataset_name`")
        elif draft.has("dataset_train_split"):
            draft.same("dataset_train_split", "all rows of the file are trained on")
    else:
        draft.put("dataset.name", name, "dataset_name")
        draft.put("dataset.train_split", split, "dataset_train_split", own="train")
    key = "dataset_config" if draft.has("dataset_config") else "dataset_config_name"
    draft.put("dataset.subset", draft.text(key), key)
    if _strategy(draft) == "no":
        if draft.has("dataset_test_split"):
            draft.unused("dataset_test_split", "there is no evaluation without `eval_strategy`")
        return
    test = draft.text("dataset_test_split", "test")
    if not steps.is_local(name):
        draft.put("dataset.eval_split", test, "dataset_test_split")
    elif draft.has("dataset_test_split"):
        draft.refuse("dataset_test_split", "files have no splits", "name a file: `dataset.eval_path`")
    else:
        draft.note("evaluation rows are those of the split `test`, and files have none: name a `dataset.eval_path`")


def _mixture(draft: Draft, key: str, is_handbook: bool) -> None:
    """A list of data sets, one after the other."""
    listed = draft.get(key)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        place = key if draft.has(key) else key.partition(".")[0]
        draft.refuse(place, "not a list of data sets", "write `- path: ...` with its `split`", fatal=True)
        return
    tables = [_entry(draft, f"{key}.{number}", is_handbook) for number in range(len(listed))]
    if is_handbook and draft.has("dataset_mixture.seed"):
        draft.unused("dataset_mixture.seed", "rows are drawn by `training.seed`")
    found = [table for table in tables if table is not None]
    if len(found) < len(tables):
        return
    shares = [f"{key}.{number}.fraction" for number in range(len(listed)) if draft.has(f"{key}.{number}.fraction")]
    if not is_handbook and shares:
        _fractions(draft, found, shares)
    _write(draft, found, [f"{key}.{number}" for number in range(len(listed))])


def _entry(draft: Draft, key: str, is_handbook: bool) -> dict[str, Any] | None:
    """The keys of one data set; None if one of them is refused."""
    place, subset = ("id", "config") if is_handbook else ("path", "name")
    name = draft.text(f"{key}.{place}")
    if name is None:
        if not draft.is_refused(f"{key}.{place}"):
            draft.refuse(key, f"no `{place}`", "name a file, a folder or a data set of the hub", fatal=True)
        return None
    files = draft.names(f"{key}.data_files") if not is_handbook else []
    if not is_handbook and draft.has(f"{key}.data_dir"):
        draft.refuse(f"{key}.data_dir", "lorans takes whole data sets", "name the folder as `path`", fatal=True)
    table: dict[str, Any]
    if files and name in ("json", "csv", "parquet", "text", "arrow"):
        table = {"path": files if len(files) > 1 else files[0]}
    elif files:
        what = "lorans takes whole data sets of the hub"
        draft.refuse(f"{key}.data_files", what, "download the files, and name them", fatal=True)
        return None
    else:
        table = {"path" if steps.is_local(name) else "name": name}
    split, _, part = draft.text(f"{key}.split", "train").partition("[")
    if "name" in table:
        table |= {"split": split} if split != "train" else {}
        value = draft.text(f"{key}.{subset}")
        table |= {"subset": value} if value not in (None, "default") else {}
    elif split != "train":
        draft.refuse(f"{key}.split", "files have no splits", "name the file of that split", fatal=True)
    if part:
        table["slice"] = part.rstrip("]")
    if is_handbook and not _weight(draft, f"{key}.weight", table):
        return None
    form = _form(draft, f"{key}.columns")
    return None if form is None else {**table, **form}


def _weight(draft: Draft, key: str, table: dict[str, Any]) -> bool:
    """The handbook's `weight`: the share of its own rows that a data set gives, before all follow one another."""
    share = draft.number(key, 1.0)
    if draft.is_refused(key) or share == 1:
        if draft.has(key):
            draft.same(key, "the data set gives all its rows, as a source without a weight does")
        return True
    percent = share * 100
    if 0 < share < 1 and "slice" not in table and abs(percent - round(percent)) < 1e-9:
        table["slice"] = f":{round(percent)}%"
        return True
    draft.refuse(key, "lorans takes a share of whole percents of the rows", "a number such as 0.25", fatal=True)
    return False


def _fractions(draft: Draft, tables: list[dict[str, Any]], keys: list[str]) -> None:
    """TRL's `fraction`: shares of the mixture, which ends when one data set has given all its rows."""
    if len(keys) != len(tables):
        for key in keys:
            draft.refuse(key, "TRL takes it for all data sets or for none", "write one for each", fatal=True)
        return
    values = [draft.number(key, 1.0) for key in keys]
    if len(tables) == 1:
        draft.same(keys[0], "the only data set gives all rows")
        return
    for table, value in zip(tables, values, strict=True):
        table["weight"] = value


_FORMS: Mapping[str, str] = {
    "messages": "messages",
    "conversations": "sharegpt",
    "text": "text",
    "completion": "prompt-completion",
}
"""Columns by which TRL tells what a row is, with lorans's formats."""


_BESIDE = frozenset({"prompt", "tools", "chat_template_kwargs"})


def _form(draft: Draft, key: str) -> dict[str, Any] | None:
    """The format that the columns say; nothing if they say none."""
    columns = draft.names(key)
    text = draft.text("dataset_text_field", "text")
    known = {**_FORMS, text: "text"}
    forms = [known[name] for name in columns if name in known]
    if not columns and not draft.is_refused(key):
        return {}
    wrong = [name for name in columns if name in ("chosen", "rejected")]
    if wrong:
        what = "these are rows of preferences, and lorans imports supervised fine-tuning"
        draft.refuse(key, what, "keep TRL for it", fatal=True)
    elif len(forms) != 1 or any(name not in known and name not in _BESIDE for name in columns):
        what = "these are not the columns of one of TRL's forms"
        draft.refuse(key, what, f"one of: {', '.join(_FORMS)}", fatal=True)
    else:
        own = {"columns": {"text": text}} if forms[0] == "text" and text != "text" else {}
        return {"format": forms[0], **own}
    return None


def _write(draft: Draft, tables: list[dict[str, Any]], keys: list[str]) -> None:
    """Write `[dataset]` of one data set, or `[[dataset.sources]]`."""
    leaves = [leaf for key in keys for leaf in draft.source.below(key) if not draft.is_refused(leaf)]
    if len(tables) > 1:
        draft.path("dataset.sources", tables, *(leaf for leaf in leaves if not draft.is_accounted(leaf)))
        return
    of = {"name": "path id", "path": "path id data_files", "subset": "name config", "split": "split", "columns": "text"}
    of |= {"slice": "split weight", "format": "columns"}
    for name, value in tables[0].items():
        sources = [f"{keys[0]}.{one}" for one in of[name].split()]
        recipe = f"dataset.{'train_split' if name == 'split' else name}"
        (draft.path if name == "path" else draft.put)(recipe, value, *sources)
    for leaf in leaves:
        if draft.has(leaf) and not draft.is_accounted(leaf):
            draft.same(leaf, "it is what lorans takes anyway")


def _mixer(draft: Draft) -> None:
    """The handbook's first way: shares by name, of the first rows, with the same splits in all."""
    mixer = draft.get("dataset_mixer")
    splits = draft.names("dataset_splits") or ["train", "test"]
    train = [name for name in splits if "train" in name]
    tests = [name for name in splits if "train" not in name]
    if not isinstance(mixer, dict) or len(train) != 1:
        what = "lorans reads one training split of each data set" if isinstance(mixer, dict) else "not a table"
        key = "dataset_splits" if isinstance(mixer, dict) and draft.has("dataset_splits") else "dataset_mixer"
        draft.refuse(key, what, "name them one by one: `dataset_mixture`", fatal=True)
        return
    configs = draft.names("dataset_configs") or [""] * len(mixer)
    tables = []
    for number, (name, config) in enumerate(zip(mixer, configs, strict=False)):
        table: dict[str, Any] = {"path" if steps.is_local(name) else "name": name}
        table |= {"split": train[0]} if train[0] != "train" else {}
        table |= {"subset": config} if config not in ("", "default") else {}
        leaf = draft.source.below("dataset_mixer")[number]
        if not _weight(draft, leaf, table):
            return
        tables.append(table)
    keys = [key for key in ("dataset_mixer", "dataset_splits", "dataset_configs") if draft.has(key)]
    if len(tables) > 1:
        draft.path("dataset.sources", tables, *keys)
        if tests and draft.has("dataset_splits"):
            draft.amend("dataset_splits", f"the rows of `{tests[0]}` are left out: name a `dataset.eval_path`")
        return
    for key, value in tables[0].items():
        draft.put(f"dataset.{'train_split' if key == 'split' else key}", value, *keys)
    if tests and _strategy(draft) != "no":
        draft.put("dataset.eval_split", tests[0], "dataset_splits")


def _streaming(draft: Draft, key: str) -> None:
    draft.put("dataset.streaming", draft.flag(key), key, own=False)


def _test_split(draft: Draft, key: str) -> None:
    """The rows that are set aside: a share of them, as lorans has it."""
    share = draft.number(key)
    if share is None:
        return
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), key, said="TRL sets other rows aside")
    else:
        what = f"lorans sets a share aside, and {share} is a number of rows"
        draft.refuse(key, what, "write the share, such as 0.05")


def _strategy(draft: Draft) -> str:
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    return str(draft.text(key, "no"))


def _evaluation(draft: Draft) -> None:
    """How often evaluation rows are looked at; the old name of the key is named."""
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    has_rows = any(f"dataset.{name}" in draft.recipe for name in ("eval_fraction", "eval_path", "eval_split"))
    if has_rows and _strategy(draft) == "steps":
        steps.interval(draft, "eval_steps", key, "training.eval_steps")
    for name in ("eval_steps", "eval_strategy", "evaluation_strategy"):
        if draft.has(name) and not draft.is_accounted(name):
            if has_rows and _strategy(draft) == "epoch" and name == key:
                draft.same(name, "once an epoch is what lorans does anyway")
            else:
                draft.unused(name, f"`{key}` says when" if has_rows else "there are no evaluation rows")
    if draft.has("evaluation_strategy"):
        draft.amend("evaluation_strategy", "TRL no longer knows it (it is `eval_strategy` now)")
