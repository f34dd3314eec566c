"""LLaMA-Factory's data: names that `dataset_info.json` explains, and how their rows are read."""

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
from lora_ns.importers.source import Source, SourceBuilder, read_source

INFO = "dataset_info.json"


_PLACES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")


_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "ms_hub_url": ("its rows are on ModelScope", "download them, and name the file by `file_name`"),
    "om_hub_url": ("its rows are on Modelers", "download them, and name the file by `file_name`"),
    "script_url": ("its rows come of a script, and lorans runs no code of a data set", "save its rows as a file"),
    "cloud_file_name": ("its rows are in a bucket", "download them, and name the file by `file_name`"),
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
"""Names of roles that lorans reads as what they are here."""


_KEYS = (*_PLACES, "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags")


@dataclass(frozen=True)
class Asked:
    """What the training says of how all rows are read."""

    is_pretraining: bool = False
    frame: Frame | None = None
    """The plain text that `template` makes of rows; None where it is a chat template."""
    most: int | None = None
    """`max_samples`."""


@dataclass(frozen=True)
class Entry:
    """One data set of a `dataset_info.json`."""

    info: Draft
    name: str
    folder: Path
    """What its `file_name` is relative to."""

    def own(self, key: str) -> str:
        """The dotted key of something in it."""
        return f"{self.name}.{key}"

    def text(self, key: str, default: str | None = None) -> Any:
        """A text in it."""
        return self.info.text(self.own(key), default)

    def has(self, key: str) -> bool:
        """Whether a key is in it and not blank."""
        return self.info.has(self.own(key))

    def lost(self, key: str, what: str, remedy: str) -> None:
        """Say that its rows cannot be had."""
        self.info.refuse(self.own(key) if key else self.name, what, remedy, fatal=True)


def entries_of(source: Source) -> list[str]:
    """The names of the data sets in a file."""
    return [key for key, value in source.values.items() if isinstance(value, dict) and set(_PLACES) & set(value)]


def is_dataset_info(source: Source) -> bool:
    """Whether a file is a table of data sets, and nothing else."""
    return bool(entries_of(source)) and all(isinstance(source.values[name], dict) for name in source.names)


def table_of(entry: Entry, asked: Asked) -> dict[str, Any] | None:
    """The keys of `[dataset]` for one data set; None if its rows cannot be had, which its keys say."""
    place, form = _place(entry), _form(entry, asked)
    limits = [number for number in (entry.info.whole(entry.own("num_samples")), asked.most) if number]
    known = (*_KEYS, *(f"columns.{name}" for name in (*_COLUMNS, *_PREFERENCES, *_MEDIA)))
    for leaf in entry.info.source.below(entry.name):
        key = leaf.removeprefix(f"{entry.name}.")
        if key not in known and not key.startswith("tags.") and not entry.info.is_accounted(leaf):
            entry.info.unused(leaf, f"LLaMA-Factory reads no such key{_meant(key)}")
    if place is None or form is None or entry.info.is_refused(entry.name):
        return None
    return {**place, **form, **_ignored(entry, form), **({"max_samples": min(limits)} if limits else {})}


_BESIDE = ("system", "history", "tools", "input")
"""Columns that lorans reads or misses where rows have them, and LLaMA-Factory only where an entry names them."""


def _ignored(entry: Entry, form: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of these that are not read; texts have none beside them."""
    named = {entry.text(f"columns.{name}") for name in _COLUMNS if entry.has(f"columns.{name}")}
    named |= set() if entry.has("columns") or entry.text("formatting", "alpaca") != "alpaca" else {"input"}
    left = [name for name in _BESIDE if name not in named]
    return {"ignore_columns": left} if left and form["format"] != "text" else {}


def _meant(key: str) -> str:
    meant = did_you_mean(key, _KEYS)
    return f" ({meant})" if meant else ""


# Where the rows are


def _place(entry: Entry) -> dict[str, Any] | None:
    kind = next((key for key in _PLACES if entry.has(key)), None)
    if kind == "ms_hub_url" and entry.has("file_name"):
        entry.info.unused(entry.own("file_name"), "`ms_hub_url` comes first")
    if kind is None:
        entry.lost("", "neither `file_name` nor `hf_hub_url`", "name a file, or a data set of the hub")
        return None
    if kind in _ELSEWHERE:
        entry.lost(kind, *_ELSEWHERE[kind])
        return None
    for other in _PLACES:
        if other != kind and entry.has(other):
            entry.info.unused(entry.own(other), f"`{kind}` takes its place")
    split, _, part = str(entry.text("split", "train")).partition("[")
    piece = {"slice": part.rstrip("]")} if part else {}
    if kind == "file_name":
        return {"path": str(entry.folder / entry.text(kind, "")), **piece}
    if entry.has("folder"):
        entry.lost("folder", "lorans takes whole data sets of the hub", "download the folder, and name it")
        return None
    subset = {"subset": entry.text("subset")} if entry.has("subset") else {}
    return {"name": entry.text(kind), **subset, **({"split": split} if split != "train" else {}), **piece}


# How a row is read


def _form(entry: Entry, asked: Asked) -> dict[str, Any] | None:
    columns = {name: entry.text(f"columns.{name}") for name in _COLUMNS if entry.has(f"columns.{name}")}
    formatting = entry.text("formatting", "alpaca")
    if entry.info.flag(entry.own("ranking")) or entry.has("columns.kto_tag"):
        key = "ranking" if entry.has("ranking") else "columns.kto_tag"
        entry.lost(key, "its rows are preferences, and lorans trains on answers", "name rows with one answer each")
        return None
    for name in ("chosen", "rejected"):
        if entry.has(f"columns.{name}"):
            entry.info.unused(entry.own(f"columns.{name}"), "it is read with `ranking` only")
    if media := next((name for name in _MEDIA if entry.has(f"columns.{name}")), None):
        entry.lost(f"columns.{media}", f"its rows have {media}, and lorans trains on text", "name rows of text")
        return None
    if asked.is_pretraining:
        return _text_form(entry, formatting, columns)
    if formatting == "alpaca":
        return _instruction_form(entry, columns, asked)
    if formatting in ("sharegpt", "openai"):
        return _conversation_form(entry, formatting, columns)
    entry.lost("formatting", "unknown to LLaMA-Factory", "one of: alpaca, sharegpt, openai")
    return None


def _text_form(entry: Entry, formatting: str, columns: Mapping[str, str]) -> dict[str, Any] | None:
    """Texts for `stage: pt`, which are in the column of the prompt."""
    if formatting != "alpaca" or "prompt" not in columns or "query" in columns:
        what = "for `stage: pt`, lorans reads texts from one column"
        entry.lost("", what, 'name it: `"columns": {"prompt": "text"}`')
        return None
    text = columns["prompt"]
    return {"format": "text", **({"columns": {"text": text}} if text != "text" else {})}


def _instruction_form(entry: Entry, columns: dict[str, str], asked: Asked) -> dict[str, Any] | None:
    """Instructions with an answer; columns that an entry does not name are not read once it names any."""
    if not entry.has("columns"):
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
    if missing := next((name for name in ("prompt", "response") if name not in columns), None):
        entry.lost("columns", f"no column for `{missing}`", "name the columns of the instruction and of the answer")
        return None
    if asked.frame is not None and (extra := next((name for name in ("history", "tools") if name in columns), None)):
        entry.lost(f"columns.{extra}", "lorans has no plain text for it", "name a chat template by `template`")
        return None
    form, note = instruction_form(columns, asked.frame)
    if note:
        entry.info.note(f"`{entry.name}`: {note}")
    return form


def _conversation_form(entry: Entry, formatting: str, columns: dict[str, str]) -> dict[str, Any] | None:
    """Conversations; `sharegpt` of lorans reads turns by `role` and `content`, too."""
    role, content = entry.text("tags.role_tag", "from"), entry.text("tags.content_tag", "value")
    if (role, content) not in (("from", "value"), ("role", "content")):
        what = f"lorans reads turns by `from` and `value` or by `role` and `content`, not by `{role}` and `{content}`"
        entry.lost("tags", what, "rename them in the file")
        return None
    for tag, names in _ROLE_NAMES.items():
        if entry.has(f"tags.{tag}") and entry.text(f"tags.{tag}") not in names:
            what = f"lorans does not read `{entry.text(f'tags.{tag}')}` as {tag.removesuffix('_tag')}"
            entry.lost(f"tags.{tag}", what, f"rename it in the file: {', '.join(names)}")
            return None
    if formatting == "openai":
        text = "LLaMA-Factory's `openai` adds `detailed thinking off` to system turns, and lorans leaves them alone"
        entry.info.note(f"`{entry.name}`: {text}")
    turns = columns.get("messages", "conversations")
    if formatting == "openai" and "system" not in columns:
        return {"format": "messages", **_renamed({"messages": turns, "tools": columns.get("tools", "tools")})}
    beside = {name: columns.get(name, name) for name in ("system", "tools")}
    return {"format": "sharegpt", **_renamed({"conversations": turns, **beside})}


def _renamed(names: Mapping[str, str]) -> dict[str, Any]:
    """`columns`, if there is one that has another name than the format expects."""
    others = {ours: theirs for ours, theirs in names.items() if ours != theirs}
    return {"columns": others} if others else {}


# The data sets of a training


def datasets(draft: Draft) -> None:
    """Translate `dataset`: one as `[dataset]`, several as `[[dataset.sources]]`."""
    names = draft.names("dataset")
    if not names:
        if not draft.is_refused("dataset"):
            draft.refuse_file("no `dataset`, so there is nothing to train on", "name the YAML that is trained with")
        _leave(draft)
        return
    asked = asked_of(draft)
    tables = [_table(draft, "dataset", name, asked) for name in names]
    found = [table for table in tables if table is not None]
    if len(found) < len(tables):
        _leave(draft)
        return
    if len(found) == 1:
        for key in ("mix_strategy", "interleave_probs"):
            if draft.has(key):
                draft.unused(key, "there is one data set")
        _write_one(draft, found[0])
    else:
        _write_several(draft, found)


def _leave(draft: Draft) -> None:
    for key in ("dataset", "mix_strategy", "interleave_probs", "max_samples", "dataset_dir"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "the data sets are not carried over")


def asked_of(draft: Draft) -> Asked:
    """What the training says of how rows are read."""
    is_pretraining = draft.get("stage") == "pt"
    frame = None if is_pretraining else frame_of(draft.text("template", ""), draft.text("default_system"))
    most = draft.whole("max_samples")
    if most is not None and most < 1:
        draft.refuse("max_samples", "not a number of rows", "write a number from 1, or remove it")
        most = None
    return Asked(is_pretraining, frame, most)


def _table(draft: Draft, key: str, name: str, asked: Asked, fatal: bool = True) -> dict[str, Any] | None:
    """One data set by its name; what is wrong with it is said of the key that names it."""
    info, folder = _info(draft, key, name, fatal)
    if info is None:
        return None
    if name not in info.source.values:
        known = entries_of(info.source)
        place = f"not in {info.source.path}"
        draft.refuse(key, f"`{name}` is {place}", did_you_mean(name, known) or f"known: {', '.join(known[:8])}", fatal)
        return None
    table = table_of(Entry(info, name, folder), asked)
    for outcome in info.outcomes.values():
        if outcome.fate == "refused":
            what = f"`{name}` ({info.source.path}:{outcome.line}): {outcome.said}"
            draft.refuse(key, what, outcome.remedy, fatal)
    for note in info.notes:
        draft.note(note)
    return None if draft.is_refused(key) else table


def _info(draft: Draft, key: str, name: str, fatal: bool) -> tuple[Draft | None, Path]:
    """The `dataset_info.json` of a training, to be read from, and its folder."""
    folder = draft.text("dataset_dir", "data")
    if folder == "ONLINE":
        return Draft(draft.tool, _online(draft, key, name), draft.gpus), Path()
    if folder.startswith("REMOTE:"):
        draft.refuse("dataset_dir", "lorans downloads no list of data sets", f"download its `{INFO}`", fatal)
        return None, Path()
    for place in (Path(folder), Path(os.path.normpath(draft.source.path.parent / folder))):
        if exists(place / INFO):
            return Draft(draft.tool, read_source(place / INFO), draft.gpus), place
    what = f"no `{Path(folder) / INFO}` here or beside the file, which would say where `{name}` is"
    draft.refuse(key, what, "import it in the folder that LLaMA-Factory is started in", fatal)
    return None, Path()


def _online(draft: Draft, key: str, name: str) -> Source:
    """`dataset_dir: ONLINE`: names are those of the hub."""
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
            draft.put(recipe, value, "dataset", "max_samples", said="the first ones")
        elif name in _FORM:
            draft.put(recipe, value, "dataset")
        else:
            draft.put(recipe, value, *keys)


_MIXES: Mapping[str, str] = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}


def _write_several(draft: Draft, tables: Sequence[dict[str, Any]]) -> None:
    """Sources, with weights where they are mixed by their shares."""
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
                draft.same(key, "every row is trained on once an epoch, in a random order")
    elif not draft.is_refused("mix_strategy"):
        draft.refuse("mix_strategy", "unknown to LLaMA-Factory", f"one of: concat, {', '.join(_MIXES)}")
    draft.path("dataset.sources", sources, *keys)


def _shares(draft: Draft) -> Iterator[float]:
    """`interleave_probs`, which are numbers in one text."""
    for part in draft.names("interleave_probs"):
        try:
            share = float(part)
        except ValueError:
            share = 0.0
        if share <= 0:
            draft.refuse("interleave_probs", "not shares above 0", "write a number for each data set")
            return
        yield share


# Evaluation rows


def evaluation_rows(draft: Draft) -> bool:
    """Translate `eval_dataset` and `val_size`; whether there are rows."""
    share = draft.number("val_size", 0)
    if 0 < share < 1:
        draft.put("dataset.eval_fraction", float(share), "val_size", said="which rows these are differs")
    elif draft.has("val_size") and share == 0:
        draft.same("val_size", "no rows are set aside")
    elif draft.has("val_size"):
        what = f"lorans sets a share aside, and {share} is a number of rows"
        draft.refuse("val_size", what, "write the share, such as 0.05")
    if draft.has("eval_dataset"):
        _evaluation_sets(draft)
    return any(f"dataset.{key}" in draft.recipe for key in ("eval_fraction", "eval_path", "eval_split"))


def _evaluation_sets(draft: Draft) -> None:
    """Data sets to evaluate on, which are read in one way: that of the training rows, if those are of one."""
    key = "eval_dataset"
    asked = asked_of(draft)
    tables = [_table(draft, key, name, asked, fatal=False) for name in draft.names(key)]
    found = [table for table in tables if table is not None]
    if len(found) < len(tables) or not found:
        if not draft.is_accounted(key):
            draft.unused(key, "the data sets are not carried over")
        return
    forms = [_form_of(table) for table in found]
    train = {name.removeprefix("dataset."): value for name, value in draft.recipe.items()}
    own = forms[0] if "sources" in train else _form_of(train)
    if any(form != own for form in forms):
        draft.refuse(key, "lorans reads evaluation rows as the training rows", "save them in the same form")
    elif all(set(table) & {"path", "slice"} == {"path"} for table in found):
        paths = [table["path"] for table in found]
        draft.path("dataset.eval_path", paths if len(paths) > 1 else paths[0], key, "dataset_dir")
        if "sources" in train:
            for name, value in forms[0].items():
                draft.put(f"dataset.{name}", value, key)
    elif len(found) == 1 and found[0].get("name") == train.get("name") is not None:
        draft.put("dataset.eval_split", found[0].get("split", "train"), key)
    else:
        what = "lorans takes evaluation rows from files or from another split of the training data set"
        draft.refuse(key, what, "save them as a file")
    if asked.most and not draft.is_refused(key):
        draft.put("dataset.max_eval_samples", asked.most, "max_samples", said="the first ones of each")


def _form_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say how rows are read."""
    return {name: table[name] for name in _FORM if name in table}


_FORM = ("format", "columns", "ignore_columns", "prompt_template", "fallback_prompt_templates", "completion_template")
