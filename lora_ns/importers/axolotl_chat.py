"""axolotl's chat templates, what of a conversation is learned, and its evaluation rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.importers import steps
from lora_ns.importers.draft import Draft

# Chat templates, and what is learned


_TEMPLATES: Mapping[str, str] = {"chatml": "chatml", "llama3": "llama-3", "gemma": "gemma"}
"""axolotl's templates that print the same as lorans's own."""


def chat_template(draft: Draft) -> None:
    """Write the chat template of conversations, and which of their turns are learned.

    A template of a data set comes before that of the file; without either, it is the base's own.
    """
    entries = [key for key in _entries(draft) if _is_conversation(draft, key)]
    inputs = draft.flag("train_on_inputs")
    if entries and inputs:
        what = "axolotl learns the text of all turns, and not what the template puts between them"
        draft.refuse("train_on_inputs", what, '`sft.train_on = "all"` learns every token')
    else:
        draft.put("sft.train_on", "all" if inputs else "assistant", "train_on_inputs", own="assistant")
    for key in _entries(draft):
        if key not in entries:
            _drop_template(draft, key, "these rows are plain text")
    if not entries:
        _drop_template(draft, "", "the rows are plain text: it would only be saved with the tokenizer")
        return
    chosen = {key: _chosen(draft, key) for key in entries}
    names = {draft.get(name) for name in chosen.values() if name}
    if len(names) > 1 or (names and None in chosen.values()):
        for name in {name for name in chosen.values() if name}:
            draft.refuse(name, "lorans has one chat template for all rows", "train on rows of one template")
        return
    for name in dict.fromkeys(name for name in chosen.values() if name):
        _template(draft, name)
    if draft.has("chat_template") and not draft.is_accounted("chat_template"):
        draft.unused("chat_template", "that of the data set comes first")


def _entries(draft: Draft) -> list[str]:
    listed = draft.get("datasets")
    return [f"datasets.{number}" for number in range(len(listed))] if isinstance(listed, list) else []


def _is_conversation(draft: Draft, key: str) -> bool:
    kind = draft.get(f"{key}.type")
    return isinstance(kind, str) and (kind == "chat_template" or kind.startswith("sharegpt"))


def _drop_template(draft: Draft, key: str, why: str) -> None:
    before = f"{key}." if key else ""
    for name in ("chat_template", "chat_template_jinja", "conversation"):
        if draft.has(f"{before}{name}"):
            draft.unused(f"{before}{name}", why)


def _chosen(draft: Draft, key: str) -> str | None:
    """The source key that says the template of a data set."""
    names = (f"{key}.chat_template", f"{key}.chat_template_jinja", f"{key}.conversation")
    return next((name for name in (*names, "chat_template", "chat_template_jinja") if draft.has(name)), None)


def _template(draft: Draft, key: str) -> None:
    """Write the template that one source key says, with the Jinja beside it."""
    jinja = f"{key.removesuffix('chat_template')}chat_template_jinja" if key.endswith("chat_template") else key
    name = draft.text(key, "")
    if key.endswith("_jinja") or name == "jinja":
        _jinja(draft, key, jinja)
    elif name.startswith("tokenizer_default"):
        draft.same(key, "the base's own template is taken; name one by `sft.chat_template` if it has none")
    elif name in _TEMPLATES:
        draft.put("sft.chat_template", _TEMPLATES[name], key)
    elif not draft.is_refused(key):
        what = f"lorans has no chat template that prints the same as `{name}`"
        draft.refuse(key, what, "save it as a .jinja file, and name that by `sft.chat_template`")
    if jinja != key and draft.has(jinja) and not draft.is_accounted(jinja):
        draft.unused(jinja, "it is read with `chat_template: jinja` only")


def _jinja(draft: Draft, key: str, jinja: str) -> None:
    value = draft.get(jinja)
    if isinstance(value, str) and value.endswith((".jinja", ".jinja2", ".j2")) and "{" not in value:
        draft.path("sft.chat_template", value, *dict.fromkeys((key, jinja)))
    else:
        for name in dict.fromkeys((key, jinja)):
            draft.refuse(name, "lorans reads a template from a file", "save it as a .jinja file, and name that")


# Evaluation


def evaluation_rows(draft: Draft) -> None:
    """Write where evaluation rows come from, and how often they are looked at."""
    _share(draft)
    tests = draft.get("test_datasets")
    if isinstance(tests, list):
        _tests(draft, tests)
    elif tests is not None:
        draft.refuse("test_datasets", "not a list of data sets", "write `- path: ...` with its `type`")
    has_rows = any(f"dataset.{key}" in draft.recipe for key in ("eval_fraction", "eval_path", "eval_split"))
    if has_rows:
        steps.interval(draft, "eval_steps", "eval_strategy", "training.eval_steps", "evals_per_epoch")
    else:
        for key in ("eval_steps", "eval_strategy", "evals_per_epoch"):
            if draft.has(key):
                draft.unused(key, "there are no evaluation rows")


def _share(draft: Draft) -> None:
    share = draft.number("val_set_size")
    if share is None:
        return
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), "val_set_size", said="axolotl sets other rows aside")
    elif share == 0:
        draft.same("val_set_size", "no rows are set aside")
    else:
        what = f"lorans sets a share aside, and {share} is a number of rows"
        draft.refuse("val_set_size", what, "write the share, such as 0.05")


def _tests(draft: Draft, tests: list[Any]) -> None:
    """One evaluation set that is read as the training rows are."""
    train = draft.get("datasets")
    first = tests[0] if tests and isinstance(tests[0], dict) else {}
    same_form = isinstance(train, list) and train and isinstance(train[0], dict)
    forms = [{key: value for key, value in one.items() if key not in _PLACE} for one in (first, (train or [{}])[0])]
    if len(tests) != 1 or not same_form or forms[0] != forms[1]:
        draft.refuse("test_datasets", "lorans reads evaluation rows as the training rows", "one data set of one type")
        return
    path, split = draft.text("test_datasets.0.path"), draft.text("test_datasets.0.split", "train")
    if path is not None and steps.is_local(path):
        draft.path("dataset.eval_path", path, "test_datasets")
    elif path == draft.recipe.get("dataset.name"):
        draft.put("dataset.eval_split", split, "test_datasets")
    else:
        what = "lorans takes evaluation rows from a file or from another split of the training data set"
        draft.refuse("test_datasets", what, "save them as a file")


_PLACE = ("path", "split", "name", "revision", "ds_type", "data_files")
