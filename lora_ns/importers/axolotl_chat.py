"""Translation of axolotl's chat templates, loss on turns, and evaluation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from lora_ns.importers import steps
from lora_ns.importers.axolotl_data import pair_template
from lora_ns.importers.draft import Draft
from lora_ns.importers.preferences import trains_pairs

# Chat templates and loss


_TEMPLATES: Mapping[str, str] = {"chatml": "chatml", "llama3": "llama-3", "gemma": "gemma"}
"""axolotl's templates that render the same text as lorans's own."""


def chat_template(draft: Draft) -> None:
    """Translate the chat template of conversations, and the turns that are trained on.

    The template of a dataset takes precedence over that of the file; without either, it is that of the base.
    """
    if trains_pairs(draft) and not _template_of_types(draft):
        return
    entries = [key for key in _entries(draft) if _is_conversation(draft, key)]
    inputs = draft.flag("train_on_inputs")
    if entries and inputs and not trains_pairs(draft):
        what = "axolotl trains on the text of all turns, without the template's own tokens"
        draft.refuse("train_on_inputs", what, '`sft.train_on = "all"` trains on every token')
    else:
        draft.put("sft.train_on", "all" if inputs else "assistant", "train_on_inputs", own="assistant")
    for key in _entries(draft):
        if key not in entries:
            _drop_template(draft, key, "these rows are plain text")
    if not entries:
        _drop_template(draft, "", "the rows are plain text: axolotl only saves it with the tokenizer")
        return
    chosen = {key: _chosen(draft, key) for key in entries}
    names = {draft.get(name) for name in chosen.values() if name}
    if len(names) > 1 or (names and None in chosen.values()):
        for name in {name for name in chosen.values() if name}:
            draft.refuse(name, "lorans uses one chat template for all rows", "use the same template for all datasets")
        return
    for name in dict.fromkeys(name for name in chosen.values() if name):
        _template(draft, name)
    if draft.has("chat_template") and not draft.is_accounted("chat_template"):
        draft.unused("chat_template", "the dataset's own template takes precedence")


def _template_of_types(draft: Draft) -> bool:
    """Translate the template that the types of preference rows name; True if they leave the choice to other keys."""
    chosen = {f"{key}.type": pair_template(draft.get(f"{key}.type")) for key in _entries(draft)}
    if not any(chosen.values()):
        return True
    if len(set(chosen.values())) > 1:
        for key in chosen:
            draft.refuse(key, "lorans uses one chat template for all rows", "use the same one for all datasets", True)
    else:
        draft.put("sft.chat_template", next(iter(chosen.values())), *chosen)
    for key in ("", *_entries(draft)):
        _drop_template(draft, key, "the type of the rows names their chat template")
    if draft.has("train_on_inputs"):
        draft.put("sft.train_on", "assistant", "train_on_inputs")
    return False


def _entries(draft: Draft) -> list[str]:
    listed = draft.get("datasets")
    return [f"datasets.{number}" for number in range(len(listed))] if isinstance(listed, list) else []


def _is_conversation(draft: Draft, key: str) -> bool:
    kind = draft.get(f"{key}.type")
    return isinstance(kind, str) and kind.startswith(("chat_template", "sharegpt"))


def _drop_template(draft: Draft, key: str, why: str) -> None:
    before = f"{key}." if key else ""
    for name in ("chat_template", "chat_template_jinja", "conversation"):
        if draft.has(f"{before}{name}"):
            draft.unused(f"{before}{name}", why)


def _chosen(draft: Draft, key: str) -> str | None:
    """Return the source key with the chat template of a dataset."""
    names = (f"{key}.chat_template", f"{key}.chat_template_jinja", f"{key}.conversation")
    return next((name for name in (*names, "chat_template", "chat_template_jinja") if draft.has(name)), None)


def _template(draft: Draft, key: str) -> None:
    """Translate the template in a source key, together with the Jinja key that belongs to it."""
    jinja = f"{key.removesuffix('chat_template')}chat_template_jinja" if key.endswith("chat_template") else key
    name = draft.text(key, "")
    if key.endswith("_jinja") or name == "jinja":
        _jinja(draft, key, jinja)
    elif name.startswith("tokenizer_default"):
        draft.same(key, "lorans uses the base's own template; if it has none, set `sft.chat_template`")
    elif name in _TEMPLATES:
        draft.put("sft.chat_template", _TEMPLATES[name], key)
    elif not draft.is_refused(key):
        what = f"lorans has no chat template equal to `{name}`"
        draft.refuse(key, what, "save it as a .jinja file, and write its path to `sft.chat_template`")
    if jinja != key and draft.has(jinja) and not draft.is_accounted(jinja):
        draft.unused(jinja, "axolotl only reads it with `chat_template: jinja`")


def _jinja(draft: Draft, key: str, jinja: str) -> None:
    value = draft.get(jinja)
    if isinstance(value, str) and value.endswith((".jinja", ".jinja2", ".j2")) and "{" not in value:
        draft.path("sft.chat_template", value, *dict.fromkeys((key, jinja)))
    else:
        for name in dict.fromkeys((key, jinja)):
            draft.refuse(name, "lorans reads a template from a file", "save it as a .jinja file, and write its path")


# Evaluation


def evaluation_rows(draft: Draft) -> None:
    """Translate the source of evaluation rows, and the interval between evaluations."""
    _share(draft)
    tests = draft.get("test_datasets")
    if isinstance(tests, list):
        _tests(draft, tests)
    elif tests is not None:
        draft.refuse("test_datasets", "not a list of datasets", "write `- path: ...` with its `type`")
    has_rows = any(f"dataset.{key}" in draft.recipe for key in ("eval_fraction", "eval_path", "eval_split"))
    if has_rows:
        interval(draft, "eval")
    else:
        for key in ("eval_steps", "eval_strategy", "evals_per_epoch"):
            if draft.has(key):
                draft.unused(key, "there are no evaluation rows")


def interval(draft: Draft, what: Literal["eval", "save"]) -> None:
    """Write `training.eval_steps` or `training.save_steps`; lorans's default is once per epoch."""
    recipe = f"training.{what}_steps"
    steps.interval(draft, f"{what}_steps", f"{what}_strategy", recipe)
    key = f"{what}s_per_epoch"
    if not draft.has(key):
        return
    times, most, epochs = draft.whole(key, 1), draft.whole("max_steps", 0), draft.number("num_epochs", 1)
    if times < 1:
        draft.unused(key, f"it is off; lorans's default is once per epoch (`{recipe}`)")
    elif recipe in draft.recipe:
        draft.unused(key, f"`{what}_steps` takes precedence")
    elif times == 1:
        draft.same(key, "once per epoch is lorans's default")
    elif most > 0 and times * epochs > 1:
        said = f"{most} steps / ({times} x {epochs} epochs)"
        draft.put(recipe, math.ceil(most / (times * epochs)), key, said=said)
    else:
        how = f"divide `steps_per_epoch` of `lorans plan` by {times}, and write `{recipe}`"
        draft.unused(key, f"lorans's default is once per epoch; for {times} times, {how}")


def _share(draft: Draft) -> None:
    share = draft.number("val_set_size")
    if share is None:
        return
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), "val_set_size", said="axolotl draws other rows")
    elif share == 0:
        draft.same("val_set_size", "no evaluation rows")
    else:
        what = f"lorans takes a fraction of the rows, and {share} is a count"
        draft.refuse("val_set_size", what, "write a fraction, such as 0.05")


def _tests(draft: Draft, tests: list[Any]) -> None:
    """Translate one evaluation dataset, which has to be read like the training rows."""
    train = draft.get("datasets")
    first = tests[0] if tests and isinstance(tests[0], dict) else {}
    same_form = isinstance(train, list) and train and isinstance(train[0], dict)
    forms = [{key: value for key, value in one.items() if key not in _PLACE} for one in (first, (train or [{}])[0])]
    if len(tests) != 1 or not same_form or forms[0] != forms[1]:
        draft.refuse(
            "test_datasets", "lorans reads evaluation rows like training rows", "name one dataset of the same type"
        )
        return
    path, split = draft.text("test_datasets.0.path"), draft.text("test_datasets.0.split", "train")
    if path is not None and steps.is_local(path):
        draft.path("dataset.eval_path", path, "test_datasets")
    elif path == draft.recipe.get("dataset.name"):
        draft.put("dataset.eval_split", split, "test_datasets")
    else:
        what = "lorans takes evaluation rows from a file, or from another split of the training dataset"
        draft.refuse("test_datasets", what, "save them as a file")


_PLACE = ("path", "split", "name", "revision", "ds_type", "data_files")
