"""Translation of TRL's rows: one dataset, or a mixture of several as in TRL and the alignment handbook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.importers import steps
from lora_ns.importers.draft import Draft
from lora_ns.importers.preferences import trains_pairs

DATA_KEYS = (
    *("dataset_name", "dataset_config", "dataset_config_name", "dataset_train_split", "dataset_test_split"),
    *("dataset_streaming", "dataset_text_field", "datasets", "streaming", "test_split_size", "dataset_mixture"),
    *("dataset_mixer", "dataset_splits", "dataset_configs"),
    *("eval_strategy", "evaluation_strategy", "eval_steps"),
)


def rows(draft: Draft) -> None:
    """Translate the rows of `datasets`, `dataset_mixture`, `dataset_mixer` or `dataset_name`, in this precedence."""
    ways = {
        "datasets": lambda: _mixture(draft, "datasets", is_handbook=False),
        "dataset_mixture": lambda: _mixture(draft, "dataset_mixture.datasets", is_handbook=True),
        "dataset_mixer": lambda: _mixer(draft),
        "dataset_name": lambda: _one(draft),
    }
    chosen = next((key for key in ways if draft.has(key)), None)
    if chosen is None:
        what, remedy = "no dataset to train on", "add `dataset_name`, or `datasets` with `- path: ...`"
        draft.refuse_file(what, remedy)
        for key in DATA_KEYS:
            if draft.has(key):
                draft.unused(key, "there is no dataset to train on")
        return
    ways[chosen]()
    for key in ways:
        if key != chosen and draft.has(key):
            draft.unused(key, f"`{chosen}` takes precedence")
    _streaming(draft, "dataset_streaming" if chosen == "dataset_name" else "streaming")
    splits = {"dataset_mixture": "dataset_mixture.test_split_size", "datasets": "test_split_size"}
    if chosen in splits:
        _test_split(draft, splits[chosen])
    for way, names in _OF_WAYS.items():
        for name in names:
            if draft.has(name) and not draft.is_accounted(name):
                draft.unused(name, f"`{chosen}` takes precedence" if way != chosen else "it only applies to other rows")
    _evaluation(draft)


_OF_WAYS: Mapping[str, Sequence[str]] = {
    "datasets": ("streaming", "test_split_size"),
    "dataset_mixer": ("dataset_splits", "dataset_configs"),
    "dataset_name": (
        *("dataset_config", "dataset_config_name", "dataset_train_split", "dataset_test_split", "dataset_streaming"),
    ),
}
"""Keys that TRL only reads together with one of the keys that name the rows."""


def _one(draft: Draft) -> None:
    """Translate `dataset_name` with its configuration and its splits."""
    name = draft.text("dataset_name")
    if name is None:
        return
    split = draft.text("dataset_train_split", "train")
    if steps.is_local(name):
        draft.path("dataset.path", name, "dataset_name")
        if split != "train":
            what = "files have no splits"
            draft.refuse("dataset_train_split", what, "write the file of that split to `dataset_name`")
        elif draft.has("dataset_train_split"):
            draft.same("dataset_train_split", "lorans trains on all rows of the file")
    else:
        draft.put("dataset.name", name, "dataset_name")
        draft.put("dataset.train_split", split, "dataset_train_split", own="train")
    key = "dataset_config" if draft.has("dataset_config") else "dataset_config_name"
    draft.put("dataset.subset", draft.text(key), key)
    if _strategy(draft) == "no":
        if draft.has("dataset_test_split"):
            draft.unused("dataset_test_split", "TRL does not evaluate without `eval_strategy`")
        return
    test = draft.text("dataset_test_split", "test")
    if not steps.is_local(name):
        draft.put("dataset.eval_split", test, "dataset_test_split")
    elif draft.has("dataset_test_split"):
        draft.refuse("dataset_test_split", "files have no splits", "write a file to `dataset.eval_path`")
    else:
        draft.note("TRL evaluates on the split `test`, but files have no splits: write a file to `dataset.eval_path`")


def _mixture(draft: Draft, key: str, is_handbook: bool) -> None:
    """Translate a list of datasets."""
    listed = draft.get(key)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        place = key if draft.has(key) else key.partition(".")[0]
        draft.refuse(place, "not a list of datasets", "write `- path: ...` with its `split`", fatal=True)
        return
    tables = [_entry(draft, f"{key}.{number}", is_handbook) for number in range(len(listed))]
    if is_handbook and draft.has("dataset_mixture.seed"):
        draft.unused("dataset_mixture.seed", "`training.seed` also determines the order of the rows")
    found = [table for table in tables if table is not None]
    if len(found) < len(tables):
        return
    shares = [f"{key}.{number}.fraction" for number in range(len(listed)) if draft.has(f"{key}.{number}.fraction")]
    if not is_handbook and shares:
        _fractions(draft, found, shares)
    _write(draft, found, [f"{key}.{number}" for number in range(len(listed))])


def _entry(draft: Draft, key: str, is_handbook: bool) -> dict[str, Any] | None:
    """Translate one dataset; None if it is refused."""
    place, subset = ("id", "config") if is_handbook else ("path", "name")
    name = draft.text(f"{key}.{place}")
    if name is None:
        if not draft.is_refused(f"{key}.{place}"):
            draft.refuse(key, f"no `{place}`", "name a file, a folder or a dataset on the hub", fatal=True)
        return None
    files = draft.names(f"{key}.data_files") if not is_handbook else []
    if not is_handbook and draft.has(f"{key}.data_dir"):
        draft.refuse(f"{key}.data_dir", "lorans loads whole datasets", "write the folder to `path`", fatal=True)
    table: dict[str, Any]
    if files and name in ("json", "csv", "parquet", "text", "arrow"):
        table = {"path": files if len(files) > 1 else files[0]}
    elif files:
        what = "lorans loads whole datasets from the hub"
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
        draft.refuse(f"{key}.split", "files have no splits", "write the file of that split", fatal=True)
    if part:
        table["slice"] = part.rstrip("]")
    if is_handbook and not _weight(draft, f"{key}.weight", table):
        return None
    form = _form(draft, f"{key}.columns")
    return None if form is None else {**table, **form}


def _weight(draft: Draft, key: str, table: dict[str, Any]) -> bool:
    """Translate the handbook's `weight`, a fraction of the dataset's own rows, to `slice`; False if it is refused."""
    share = draft.number(key, 1.0)
    if draft.is_refused(key) or share == 1:
        if draft.has(key):
            draft.same(key, "lorans uses all rows of a dataset by default")
        return True
    percent = share * 100
    if 0 < share < 1 and "slice" not in table and abs(percent - round(percent)) < 1e-9:
        table["slice"] = f":{round(percent)}%"
        return True
    draft.refuse(key, "lorans takes whole percentages of the rows", "write a number such as 0.25", fatal=True)
    return False


def _fractions(draft: Draft, tables: list[dict[str, Any]], keys: list[str]) -> None:
    """Translate TRL's `fraction`, the share of a dataset in the mixture, to `weight`."""
    if len(keys) != len(tables):
        for key in keys:
            what = "TRL requires a fraction for all datasets or for none"
            draft.refuse(key, what, "write one for each dataset", fatal=True)
        return
    values = [draft.number(key, 1.0) for key in keys]
    if len(tables) == 1:
        draft.same(keys[0], "lorans uses all rows of the only dataset")
        return
    for table, value in zip(tables, values, strict=True):
        table["weight"] = value


_FORMS: Mapping[str, str] = {
    "messages": "messages",
    "conversations": "sharegpt",
    "text": "text",
    "completion": "prompt-completion",
}
"""lorans's formats by the columns from which TRL infers the format of a row."""


_BESIDE = frozenset({"prompt", "tools", "chat_template_kwargs"})


def _form(draft: Draft, key: str) -> dict[str, Any] | None:
    """Translate the columns of a dataset to its format; empty without columns, None if they are refused."""
    columns = draft.names(key)
    text = draft.text("dataset_text_field", "text")
    known = {**_FORMS, text: "text"}
    forms = [known[name] for name in columns if name in known]
    if not columns and not draft.is_refused(key):
        return {}
    wrong = [name for name in columns if name in ("chosen", "rejected")]
    if trains_pairs(draft) and len(wrong) == 2 and set(columns) <= {*wrong, *_BESIDE}:
        return {"format": "preference"}
    if wrong:
        what = "these are columns of preferences; lorans imports supervised fine-tuning only"
        draft.refuse(key, what, "use TRL for this run", fatal=True)
    elif len(forms) != 1 or any(name not in known and name not in _BESIDE for name in columns):
        what = "these columns do not belong to one of TRL's formats"
        draft.refuse(key, what, f"name exactly one of: {', '.join(_FORMS)}", fatal=True)
    else:
        own = {"columns": {"text": text}} if forms[0] == "text" and text != "text" else {}
        return {"format": forms[0], **own}
    return None


def _write(draft: Draft, tables: list[dict[str, Any]], keys: list[str]) -> None:
    """Write one dataset to `[dataset]`, several to `[[dataset.sources]]`."""
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
            draft.same(leaf, "lorans does the same by default")


def _mixer(draft: Draft) -> None:
    """Translate the handbook's older `dataset_mixer`: fractions by name, with the same splits for all datasets."""
    mixer = draft.get("dataset_mixer")
    splits = draft.names("dataset_splits") or ["train", "test"]
    train = [name for name in splits if "train" in name]
    tests = [name for name in splits if "train" not in name]
    if not isinstance(mixer, dict) or len(train) != 1:
        what = "lorans reads one training split of each dataset" if isinstance(mixer, dict) else "not a table"
        key = "dataset_splits" if isinstance(mixer, dict) and draft.has("dataset_splits") else "dataset_mixer"
        draft.refuse(key, what, "list the datasets in `dataset_mixture`", fatal=True)
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
            draft.amend("dataset_splits", f"without the rows of `{tests[0]}`: write a file to `dataset.eval_path`")
        return
    for key, value in tables[0].items():
        draft.put(f"dataset.{'train_split' if key == 'split' else key}", value, *keys)
    if tests and _strategy(draft) != "no":
        draft.put("dataset.eval_split", tests[0], "dataset_splits")


def _streaming(draft: Draft, key: str) -> None:
    draft.put("dataset.streaming", draft.flag(key), key, own=False)


def _test_split(draft: Draft, key: str) -> None:
    """Translate the size of the test split, which lorans supports as a fraction of the rows."""
    share = draft.number(key)
    if share is None:
        return
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), key, said="TRL draws other rows")
    else:
        what = f"lorans takes a fraction of the rows, and {share} is a count"
        draft.refuse(key, what, "write a fraction, such as 0.05")


def _strategy(draft: Draft) -> str:
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    return str(draft.text(key, "no"))


def _evaluation(draft: Draft) -> None:
    """Translate the interval between evaluations, and mark the old name of its key."""
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    has_rows = any(f"dataset.{name}" in draft.recipe for name in ("eval_fraction", "eval_path", "eval_split"))
    if has_rows and _strategy(draft) == "steps":
        steps.interval(draft, "eval_steps", key, "training.eval_steps")
    for name in ("eval_steps", "eval_strategy", "evaluation_strategy"):
        if draft.has(name) and not draft.is_accounted(name):
            if has_rows and _strategy(draft) == "epoch" and name == key:
                draft.same(name, "lorans evaluates once per epoch by default")
            else:
                usual = "lorans evaluates once per epoch unless `training.eval_steps` is set"
                draft.unused(name, usual if has_rows else "there are no evaluation rows")
    if draft.has("evaluation_strategy"):
        draft.amend("evaluation_strategy", "removed from TRL (now `eval_strategy`)")
