"""Translation of LLaMA-Factory's `dataset`: the entries of `dataset_info.json`, and the format of their rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import did_you_mean
from lora_ns.files.reading import exists
from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_prompts import Frame, frame_of, instruction_form
from lora_ns.importers.preferences import trains_pairs
from lora_ns.importers.source import Source, SourceBuilder, read_source

INFO = "dataset_info.json"


_PLACES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")


_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "ms_hub_url": ("its rows are on ModelScope", "download them, and write the path to `file_name`"),
    "om_hub_url": ("its rows are on Modelers", "download them, and write the path to `file_name`"),
    "script_url": ("a script creates its rows, and lorans does not run it", "save its rows as a file"),
    "cloud_file_name": ("its rows are in cloud storage", "download them, and write the path to `file_name`"),
}


_COLUMNS = ("prompt", "query", "response", "history", "messages", "system", "tools")


_PREFERENCES = ("chosen", "rejected", "kto_tag")


_MEDIA = ("images", "videos", "audios")


_ROLE_NAMES: Mapping[str, tuple[str, ...]] = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "bot", "model", "chatgpt"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
"""Names of roles that lorans reads with the meaning of each tag."""


_KEYS = (*_PLACES, "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags")


@dataclass(frozen=True)
class RowOptions:
    """Settings of the training run that apply to the rows of all datasets."""

    is_pretraining: bool = False
    frame: Frame | None = None
    """Plain text that `template` renders; None if it is a chat template."""
    most: int | None = None
    """`max_samples`."""
    are_pairs: bool = False
    """True for preference training."""


@dataclass(frozen=True)
class Entry:
    """One dataset of `dataset_info.json`."""

    info: Draft
    name: str
    folder: Path
    """Folder that its `file_name` is relative to."""

    def own(self, key: str) -> str:
        """Return the dotted key of a key in this entry."""
        return f"{self.name}.{key}"

    def text(self, key: str, default: str | None = None) -> Any:
        """Return the string at a key of this entry."""
        return self.info.text(self.own(key), default)

    def has(self, key: str) -> bool:
        """True if this entry has a key, and it is not blank."""
        return self.info.has(self.own(key))

    def refuse(self, key: str, what: str, remedy: str) -> None:
        """Refuse this dataset because of a key, or as a whole if the key is empty."""
        self.info.refuse(self.own(key) if key else self.name, what, remedy, fatal=True)


def entries_of(source: Source) -> list[str]:
    """Return the names of the datasets in a file."""
    return [key for key, value in source.values.items() if isinstance(value, dict) and set(_PLACES) & set(value)]


def is_dataset_info(source: Source) -> bool:
    """True if a file lists datasets and has no other keys."""
    return bool(entries_of(source)) and all(isinstance(source.values[name], dict) for name in source.names)


def table_of(entry: Entry, options: RowOptions) -> dict[str, Any] | None:
    """Translate one dataset to the keys of `[dataset]`; None if it is refused."""
    place, form = _place(entry), _form(entry, options)
    limits = [number for number in (entry.info.whole(entry.own("num_samples")), options.most) if number]
    known = (*_KEYS, *(f"columns.{name}" for name in (*_COLUMNS, *_PREFERENCES, *_MEDIA)))
    for leaf in entry.info.source.below(entry.name):
        key = leaf.removeprefix(f"{entry.name}.")
        if key not in known and not key.startswith("tags.") and not entry.info.is_accounted(leaf):
            entry.info.unused(leaf, f"LLaMA-Factory does not read this key{_meant(key)}")
    if place is None or form is None or entry.info.is_refused(entry.name):
        return None
    return {**place, **form, **_ignored(entry, form), **({"max_samples": min(limits)} if limits else {})}


_BESIDE = ("system", "history", "tools", "input")
"""Columns that lorans reads or reports in every row; LLaMA-Factory reads them only if an entry names them."""


def _ignored(entry: Entry, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ignore_columns`: those of `_BESIDE` that LLaMA-Factory does not read; empty for plain text."""
    named = {entry.text(f"columns.{name}") for name in _COLUMNS if entry.has(f"columns.{name}")}
    named |= set() if entry.has("columns") or entry.text("formatting", "alpaca") != "alpaca" else {"input"}
    left = [name for name in _BESIDE if name not in named]
    return {"ignore_columns": left} if left and form["format"] != "text" else {}


def _meant(key: str) -> str:
    meant = did_you_mean(key, _KEYS)
    return f" ({meant})" if meant else ""


# Location of the rows


def _place(entry: Entry) -> dict[str, Any] | None:
    kind = next((key for key in _PLACES if entry.has(key)), None)
    if kind == "ms_hub_url" and entry.has("file_name"):
        entry.info.unused(entry.own("file_name"), "`ms_hub_url` takes precedence")
    if kind is None:
        entry.refuse("", "neither `file_name` nor `hf_hub_url`", "name a file, or a dataset on the hub")
        return None
    if kind in _ELSEWHERE:
        entry.refuse(kind, *_ELSEWHERE[kind])
        return None
    for other in _PLACES:
        if other != kind and entry.has(other):
            entry.info.unused(entry.own(other), f"`{kind}` takes precedence")
    split, _, part = str(entry.text("split", "train")).partition("[")
    piece = {"slice": part.rstrip("]")} if part else {}
    if kind == "file_name":
        return {"path": str(entry.folder / entry.text(kind, "")), **piece}
    if entry.has("folder"):
        what = "lorans loads whole datasets from the hub"
        entry.refuse("folder", what, "download the folder, and write its path to `file_name`")
        return None
    subset = {"subset": entry.text("subset")} if entry.has("subset") else {}
    return {"name": entry.text(kind), **subset, **({"split": split} if split != "train" else {}), **piece}


# Format of a row


def _form(entry: Entry, options: RowOptions) -> dict[str, Any] | None:
    columns = {name: entry.text(f"columns.{name}") for name in _COLUMNS if entry.has(f"columns.{name}")}
    formatting = entry.text("formatting", "alpaca")
    if _has_other_rows(entry, options):
        return None
    if options.are_pairs:
        return _pair_form(entry, formatting, columns, options)
    for name in ("chosen", "rejected"):
        if entry.has(f"columns.{name}"):
            entry.info.unused(entry.own(f"columns.{name}"), "LLaMA-Factory only reads it with `ranking`")
    if options.is_pretraining:
        return _text_form(entry, formatting, columns)
    if formatting == "alpaca":
        return _instruction_form(entry, columns, options)
    if formatting in ("sharegpt", "openai"):
        return _conversation_form(entry, formatting, columns)
    entry.refuse("formatting", "unknown to LLaMA-Factory", "write one of: alpaca, sharegpt, openai")
    return None


def _has_other_rows(entry: Entry, options: RowOptions) -> bool:
    """Refuse rows that the objective does not train on, or cannot; True if there are any."""
    if entry.info.flag(entry.own("ranking")) != options.are_pairs or entry.has("columns.kto_tag"):
        key = next((key for key in ("columns.kto_tag", "ranking") if entry.has(key)), "")
        what = "its rows have one answer" if options.are_pairs else "its rows are preferences"
        remedy = "one with `ranking`" if options.are_pairs else "one with one answer per row"
        entry.refuse(key, f"{what}, which is not for this `stage`", f"use another dataset, {remedy}")
        return True
    if media := next((name for name in _MEDIA if entry.has(f"columns.{name}")), None):
        entry.refuse(f"columns.{media}", f"its rows have {media}; lorans trains on text only", "use a dataset of text")
        return True
    return False


def _pair_form(entry: Entry, formatting: str, columns: Mapping[str, str], options: RowOptions) -> dict[str, Any] | None:
    """Translate preference pairs, whose columns lorans reads by their names in either formatting."""
    if options.frame is not None:
        entry.refuse("ranking", "lorans renders pairs by a chat template", "set `template` to one")
        return None
    sides = {side: entry.text(f"columns.{side}") for side in ("chosen", "rejected")}
    if missing := next((side for side, own in sides.items() if own is None), None):
        entry.refuse("columns", f"no column for `{missing}`", "name the columns of both answers")
        return None
    if formatting == "alpaca":
        beside = {"instruction": columns.get("prompt", "instruction"), "history": columns.get("history", "history")}
        if "query" in columns:
            beside["input"] = columns["query"]
            text = "LLaMA-Factory puts one line break between prompt and query, lorans an empty line"
            entry.info.note(f"`{entry.name}`: {text}")
    elif _conversation_form(entry, formatting, dict(columns)) is None:
        return None
    else:
        beside = {"conversations": columns.get("messages", "conversations")}
    beside |= {name: columns.get(name, name) for name in ("system", "tools")}
    return {"format": "preference", **_renamed({**beside, **{side: str(own) for side, own in sides.items()}})}


def _text_form(entry: Entry, formatting: str, columns: Mapping[str, str]) -> dict[str, Any] | None:
    """Translate texts for `stage: pt`, which are in the column `prompt`."""
    if formatting != "alpaca" or "prompt" not in columns or "query" in columns:
        what = "lorans reads the texts of `stage: pt` from one column"
        entry.refuse("", what, 'name it, as in `"columns": {"prompt": "text"}`')
        return None
    text = columns["prompt"]
    return {"format": "text", **({"columns": {"text": text}} if text != "text" else {})}


def _instruction_form(entry: Entry, columns: dict[str, str], options: RowOptions) -> dict[str, Any] | None:
    """Translate instructions with an answer; an entry that names any columns has no others."""
    if not entry.has("columns"):
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
    if missing := next((name for name in ("prompt", "response") if name not in columns), None):
        entry.refuse("columns", f"no column for `{missing}`", "name the columns of instruction and answer")
        return None
    extra = next((name for name in ("history", "tools") if name in columns), None)
    if options.frame is not None and extra is not None:
        what = "lorans cannot render it as plain text"
        entry.refuse(f"columns.{extra}", what, "set `template` to a chat template")
        return None
    form, note = instruction_form(columns, options.frame)
    if note:
        entry.info.note(f"`{entry.name}`: {note}")
    return form


def _conversation_form(entry: Entry, formatting: str, columns: dict[str, str]) -> dict[str, Any] | None:
    """Translate conversations; lorans's `sharegpt` also reads turns by `role` and `content`."""
    role, content = entry.text("tags.role_tag", "from"), entry.text("tags.content_tag", "value")
    if (role, content) not in (("from", "value"), ("role", "content")):
        what = f"lorans reads turns by `role` and `content` or by `from` and `value`, not by `{role}` and `{content}`"
        entry.refuse("tags", what, "rename these keys in the file")
        return None
    for tag, names in _ROLE_NAMES.items():
        if entry.has(f"tags.{tag}") and entry.text(f"tags.{tag}") not in names:
            what = f"lorans does not treat the role `{entry.text(f'tags.{tag}')}` as {tag.removesuffix('_tag')}"
            entry.refuse(f"tags.{tag}", what, f"rename it in the file to one of: {', '.join(names)}")
            return None
    if formatting == "openai":
        text = "LLaMA-Factory's `openai` adds `detailed thinking off` to system turns; lorans does not"
        entry.info.note(f"`{entry.name}`: {text}")
    turns = columns.get("messages", "conversations")
    if formatting == "openai" and "system" not in columns:
        return {"format": "messages", **_renamed({"messages": turns, "tools": columns.get("tools", "tools")})}
    beside = {name: columns.get(name, name) for name in ("system", "tools")}
    return {"format": "sharegpt", **_renamed({"conversations": turns, **beside})}


def _renamed(names: Mapping[str, str]) -> dict[str, Any]:
    """Return `columns`, with the columns whose names are not those of the format; empty if there are none."""
    others = {ours: theirs for ours, theirs in names.items() if ours != theirs}
    return {"columns": others} if others else {}


# Datasets of a training run


def datasets(draft: Draft) -> None:
    """Translate `dataset`: one to `[dataset]`, several to `[[dataset.sources]]`."""
    names = draft.names("dataset")
    if not names:
        if not draft.is_refused("dataset"):
            what = "no `dataset`: this configuration is not for training"
            draft.refuse_file(what, "name the YAML of the training run")
        _drop(draft)
        return
    options = row_options(draft)
    tables = [translate_table(draft, "dataset", name, options) for name in names]
    found = [table for table in tables if table is not None]
    if len(found) < len(tables):
        _drop(draft)
        return
    if len(found) == 1:
        for key in ("mix_strategy", "interleave_probs"):
            if draft.has(key):
                draft.unused(key, "there is only one dataset")
        _write_one(draft, found[0])
    else:
        _write_several(draft, found)


def _drop(draft: Draft) -> None:
    for key in ("dataset", "mix_strategy", "interleave_probs", "max_samples", "dataset_dir"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "the datasets are not carried over")


def row_options(draft: Draft) -> RowOptions:
    """Return the settings of the training run that apply to the rows of all datasets."""
    is_pretraining = draft.get("stage") == "pt"
    frame = None if is_pretraining else frame_of(draft.text("template", ""), draft.text("default_system"))
    most = draft.whole("max_samples")
    if most is not None and most < 1:
        draft.refuse("max_samples", "not a number of rows", "write 1 or more, or remove it")
        most = None
    return RowOptions(is_pretraining, frame, most, trains_pairs(draft))


def translate_table(
    draft: Draft, key: str, name: str, options: RowOptions, fatal: bool = True
) -> dict[str, Any] | None:
    """Translate one dataset by its name; its problems are reported at the key that names it."""
    info, folder = _info(draft, key, name, fatal)
    if info is None:
        return None
    if name not in info.source.values:
        known = entries_of(info.source)
        what = f"`{name}` is not in {info.source.path}"
        draft.refuse(key, what, did_you_mean(name, known) or f"write one of: {', '.join(known[:8])}", fatal)
        return None
    table = table_of(Entry(info, name, folder), options)
    for outcome in info.outcomes.values():
        if outcome.fate == "refused":
            what = f"`{name}` ({info.source.path}:{outcome.line}): {outcome.said}"
            draft.refuse(key, what, outcome.remedy, fatal)
    for note in info.notes:
        draft.note(note)
    return None if draft.is_refused(key) else table


def _info(draft: Draft, key: str, name: str, fatal: bool) -> tuple[Draft | None, Path]:
    """Find `dataset_info.json`. Returns a draft that reads it, and its folder; None if it is missing."""
    folder = draft.text("dataset_dir", "data")
    if folder == "ONLINE":
        return Draft(draft.tool, _online(draft, key, name), draft.gpus), Path()
    if folder.startswith("REMOTE:"):
        what = "lorans does not download a list of datasets"
        draft.refuse("dataset_dir", what, f"download its `{INFO}`, and name the folder", fatal)
        return None, Path()
    for place in (Path(folder), Path(os.path.normpath(draft.source.path.parent / folder))):
        if exists(place / INFO):
            return Draft(draft.tool, read_source(place / INFO), draft.gpus), place
    what = f"cannot look up `{name}`: no `{Path(folder) / INFO}` in the current folder or beside the file"
    draft.refuse(key, what, "run `lorans import` in the folder in which you run `llamafactory-cli`", fatal)
    return None, Path()


def _online(draft: Draft, key: str, name: str) -> Source:
    """Return the entry of a dataset on the hub, for `dataset_dir: ONLINE`."""
    builder = SourceBuilder(draft.source.path)
    builder.table(name, {"hf_hub_url": name}, draft.source.lines.get(key, 1))
    builder.leaf(f"{name}.hf_hub_url", name, draft.source.lines.get(key, 1))
    return builder.source()


def _write_one(draft: Draft, table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        recipe = f"dataset.{'train_split' if name == 'split' else name}"
        keys = ("dataset", "dataset_dir")
        if name == "path":
            draft.path(recipe, value, *keys)
        elif name == "max_samples":
            draft.put(recipe, value, "dataset", "max_samples", said="lorans takes the first rows")
        elif name in _FORM:
            draft.put(recipe, value, "dataset")
        else:
            draft.put(recipe, value, *keys)


_MIXES: Mapping[str, str] = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}


def _write_several(draft: Draft, tables: Sequence[dict[str, Any]]) -> None:
    """Write `[[dataset.sources]]`, with weights if the datasets are interleaved."""
    mix = draft.text("mix_strategy", "concat")
    given = [float(part) for part in _shares(draft)]
    keys = [key for key in ("dataset", "dataset_dir", "max_samples") if not draft.is_refused(key)]
    sources = [dict(table) for table in tables]
    if mix in _MIXES:
        shares = given if len(given) == len(sources) else [1.0] * len(sources)
        for source, share in zip(sources, shares, strict=True):
            source["weight"] = share
        keys += [key for key in ("mix_strategy", "interleave_probs") if not draft.is_refused(key)]
        draft.put("dataset.stopping_strategy", _MIXES[mix], "mix_strategy")
    elif mix in ("concat", "interleave_once"):
        for key in ("mix_strategy", "interleave_probs"):
            if draft.has(key):
                draft.same(key, "lorans trains on every row once per epoch, in random order")
    elif not draft.is_refused("mix_strategy"):
        draft.refuse("mix_strategy", "unknown to LLaMA-Factory", f"write one of: concat, {', '.join(_MIXES)}")
    draft.path("dataset.sources", sources, *keys)


def _shares(draft: Draft) -> Iterator[float]:
    """Yield the numbers in the string `interleave_probs`."""
    for part in draft.names("interleave_probs"):
        try:
            share = float(part)
        except ValueError:
            share = 0.0
        if share <= 0:
            draft.refuse("interleave_probs", "not a list of numbers above 0", "write one number for each dataset")
            return
        yield share


def form_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a dataset that define its format."""
    return {name: table[name] for name in _FORM if name in table}


_FORM = ("format", "columns", "ignore_columns", "prompt_template", "fallback_prompt_templates", "completion_template")
