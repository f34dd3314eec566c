"""LLaMA-Factory's evaluation rows: `eval_dataset` and `val_size`."""

from __future__ import annotations

from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_data import form_of, row_options, translate_table


def evaluation_rows(draft: Draft) -> bool:
    """Translate `eval_dataset` and `val_size`; True if there are evaluation rows."""
    share = draft.number("val_size", 0)
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), "val_size", said="LLaMA-Factory draws other rows")
    elif draft.has("val_size") and share == 0:
        draft.same("val_size", "no evaluation rows")
    elif draft.has("val_size"):
        what = f"lorans takes a fraction of the rows, and {share} is a count"
        draft.refuse("val_size", what, "write a fraction, such as 0.05")
    if draft.has("eval_dataset"):
        _evaluation_sets(draft)
    return any(f"dataset.{key}" in draft.recipe for key in ("eval_fraction", "eval_path", "eval_split"))


def _evaluation_sets(draft: Draft) -> None:
    """Translate the evaluation datasets, which must share one format: that of the training rows, if they have one."""
    key = "eval_dataset"
    options = row_options(draft)
    tables = [translate_table(draft, key, name, options, fatal=False) for name in draft.names(key)]
    found = [table for table in tables if table is not None]
    if len(found) < len(tables) or not found:
        if not draft.is_accounted(key):
            draft.unused(key, "the datasets are not carried over")
        return
    forms = [form_of(table) for table in found]
    train = {name.removeprefix("dataset."): value for name, value in draft.recipe.items()}
    own = forms[0] if "sources" in train else form_of(train)
    if any(form != own for form in forms):
        draft.refuse(key, "lorans reads evaluation rows like training rows", "save them in the same format")
    elif all(set(table) & {"path", "slice"} == {"path"} for table in found):
        paths = [table["path"] for table in found]
        draft.path("dataset.eval_path", paths if len(paths) > 1 else paths[0], key, "dataset_dir")
        if "sources" in train:
            for name, value in forms[0].items():
                draft.put(f"dataset.{name}", value, key)
    elif len(found) == 1 and found[0].get("name") == train.get("name") is not None:
        draft.put("dataset.eval_split", found[0].get("split", "train"), key)
    else:
        what = "lorans takes evaluation rows from files, or from another split of the training dataset"
        draft.refuse(key, what, "save them as a file")
    if options.most and not draft.is_refused(key):
        said = "lorans takes the first rows of each dataset"
        draft.put("dataset.max_eval_samples", options.most, "max_samples", said=said)
