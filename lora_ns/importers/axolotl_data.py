"""Translation of axolotl's `datasets`: the location of rows, and their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lora_ns.errors import did_you_mean
from lora_ns.importers import steps
from lora_ns.importers.axolotl_prompts import PROMPTS, Templates, escaped, renamed, templates_of
from lora_ns.importers.draft import Draft
from lora_ns.importers.preferences import trains_pairs


@dataclass(frozen=True)
class _Entry:
    """One entry of `datasets`."""

    draft: Draft
    key: str
    """`datasets.0`."""

    def own(self, name: str) -> str:
        """Return the dotted key of a key in this entry."""
        return f"{self.key}.{name}"

    def text(self, name: str, default: str | None = None) -> Any:
        """Return the string at a key of this entry."""
        return self.draft.text(self.own(name), default)

    def has(self, name: str) -> bool:
        """True if this entry has a key, and it is not blank."""
        return self.draft.has(self.own(name))


def datasets(draft: Draft) -> None:
    """Translate `datasets`: one to `[dataset]`, several to `[[dataset.sources]]`."""
    listed = draft.get("datasets")
    if draft.has("pretraining_dataset"):
        what = "it streams and concatenates texts; lorans keeps texts separate"
        draft.refuse("pretraining_dataset", what, "use `datasets` with `type: completion`", fatal=True)
    if listed is None:
        if not draft.has("pretraining_dataset"):
            what = "no `datasets`: this configuration is not for training"
            draft.refuse_file(what, "name the configuration that you pass to `axolotl train`")
        return
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        draft.refuse("datasets", "not a list of datasets", "write `- path: ...` with its `type`", fatal=True)
        return
    entries = [_Entry(draft, f"datasets.{number}") for number in range(len(listed))]
    found = [_one(entry) for entry in entries]
    if all(table is not None for table in found):
        _write(draft, entries, [table for table in found if table is not None])
    for entry in entries:
        _account(entry, is_read=all(table is not None for table in found))


def _one(entry: _Entry) -> dict[str, Any] | None:
    """Translate one dataset; None if one of its keys is refused, so that no recipe would be equivalent."""
    place = _place(entry)
    form = _pairs(entry) if trains_pairs(entry.draft) else _form(entry)
    return None if place is None or form is None else {**place, **form}


def _place(entry: _Entry) -> dict[str, Any] | None:
    """Translate the location of the rows."""
    path = entry.text("path")
    if path is None:
        if not entry.draft.is_refused(entry.own("path")):
            entry.draft.refuse(entry.key, "no `path`", "name a file, a folder or a dataset on the hub", fatal=True)
        return None
    files = entry.draft.names(entry.own("data_files"))
    if files and path in ("json", "csv", "parquet", "text", "arrow"):
        return {"path": files if len(files) > 1 else files[0], **_split(entry, is_hub=False)}
    if files and steps.is_local(path):
        paths = [str(PurePath(path) / file) for file in files]
        return {"path": paths if len(paths) > 1 else paths[0], **_split(entry, is_hub=False)}
    if files:
        entry.draft.refuse(
            entry.own("data_files"), "lorans loads whole datasets from the hub", "download the files, and name them"
        )
        return None
    if steps.is_local(path):
        return {"path": path, **_split(entry, is_hub=False)}
    place = {"name": path, **_split(entry, is_hub=True)}
    for name, recipe in (("name", "subset"), ("revision", "revision")):
        if (value := entry.text(name)) is not None:
            place[recipe] = value
    return place


def _split(entry: _Entry, is_hub: bool) -> dict[str, Any]:
    """Translate the split, and the slice in its brackets."""
    split, _, part = str(entry.text("split", "train")).partition("[")
    if not is_hub and split != "train":
        entry.draft.refuse(entry.own("split"), "files have no splits", "write the file of that split to `path`")
    keys = {"split": split} if is_hub and split != "train" else {}
    return {**keys, "slice": part.rstrip("]")} if part else keys


def _form(entry: _Entry) -> dict[str, Any] | None:
    """Translate the format of a row; None if lorans cannot render the same text."""
    kind = entry.draft.get(entry.own("type"))
    if isinstance(kind, dict):
        return _user_defined(entry)
    kind = entry.text("type", "")
    if kind in PROMPTS:
        return templates_of(PROMPTS[kind]).keys()
    if kind == "completion":
        column = entry.text("field", "text")
        return {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}
    if kind == "chat_template" or kind.split(":")[0] == "sharegpt":
        return _conversation(entry, kind)
    if entry.draft.is_refused(entry.own("type")):
        return None
    known = "alpaca, chat_template, completion, or a table with `field_instruction` and `format`"
    entry.draft.refuse(
        entry.own("type") if kind else entry.key,
        f"lorans cannot render rows as `{kind}` does" if kind else "no `type`",
        f"supported: {known}; for others, write the recipe yourself with `dataset.prompt_template`",
        fatal=True,
    )
    return None


_PAIR_TYPES = ("argilla", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra")
"""Types of preference rows after `chatml.` or `llama3.`: the columns of all of them are read by their names."""


def pair_template(kind: object) -> str | None:
    """Return the chat template that a type of preference rows names; None for the one of the file or base."""
    return {"chatml": "chatml", "llama3": "llama-3"}.get(str(kind).partition(".")[0])


def _pairs(entry: _Entry) -> dict[str, Any] | None:
    """Translate the format of preference rows; None if it is refused."""
    kind = entry.draft.get(entry.own("type"))
    name = str(kind).partition(".")[2]
    if kind in ("chat_template", "chat_template.default", "chat_template.argilla_chat"):
        _check_turns(entry)
        if _turn_keys(entry, ("role", "content")) in (("role", "content"), ("from", "value")):
            names = {side: entry.text(f"field_{side}", side) for side in ("messages", "chosen", "rejected")}
            columns = {side: own for side, own in names.items() if side != own}
            return {"format": "preference", **({"columns": columns} if columns else {})}
    elif pair_template(kind) and name in _PAIR_TYPES:
        return {"format": "preference"}
    known = f"chat_template.default, chat_template.argilla_chat, and {', '.join(_PAIR_TYPES)} after chatml. or llama3."
    shown = f"`{kind}` rows" if isinstance(kind, str) else "rows of your own type"
    entry.draft.refuse(
        entry.own("type") if kind else entry.key,
        f"lorans cannot read {shown} as preferences" if kind else "no `type`",
        f"supported with `rl`: {known}; or write the recipe yourself, with the columns `chosen` and `rejected`",
        fatal=True,
    )
    return None


def _user_defined(entry: _Entry) -> dict[str, Any] | None:
    """Translate a `type` that is a table of your own prompts."""
    values = {
        name: entry.text(f"type.{name}", default)
        for name, default in (
            ("field_instruction", "instruction"),
            ("field_input", "input"),
            ("field_output", "output"),
            ("field_system", None),
            ("system_prompt", ""),
            ("system_format", "{system}"),
            ("format", "{instruction} {input} "),
            ("no_input_format", "{instruction} "),
        )
    }
    names = {
        "instruction": values["field_instruction"],
        "input": values["field_input"],
        "system": values["field_system"],
    }
    frame = values["system_format"]
    try:
        prompts = _own_formats(entry, values["format"], values["no_input_format"])
        own = frame.replace("{system}", escaped(values["system_prompt"])) if values["system_prompt"] else ""
        if values["field_system"]:
            prompts = [f"{frame}{text}" for text in prompts] + prompts
        elif own:
            prompts = [f"{own}{text}" for text in prompts]
        filled = [renamed(text, names) for text in prompts]
    except ValueError as fault:
        entry.draft.refuse(entry.own("type"), str(fault), "correct the format", fatal=True)
        return None
    return Templates(tuple(filled), f"{{{values['field_output']}}}").keys()


def _own_formats(entry: _Entry, with_input: str, without: str) -> list[str]:
    """Return the formats of a custom type. Raises `ValueError` if no template distinguishes rows with an input."""
    if "{input}" in with_input:
        return [with_input, without]
    if with_input == without or not entry.has("type.field_input"):
        return [without]  # an unread column `input` is an error when the rows are read
    raise ValueError("`format` is for rows with an input, but does not contain `{input}`")


_LORANS_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
}
"""Names of roles that lorans's `sharegpt` format reads, and their meanings."""


def _conversation(entry: _Entry, kind: str) -> dict[str, Any] | None:
    """Translate conversations, which the chat template renders."""
    is_old = kind.startswith("sharegpt")
    role, content = _turn_keys(entry, ("from", "value") if is_old else ("role", "content"))
    field = entry.text("field_messages", "conversations" if is_old else "messages")
    if (role, content) == ("from", "value") or entry.has("roles"):
        form: dict[str, Any] = {"format": "sharegpt"}
        form |= {"columns": {"conversations": field}} if field != "conversations" else {}
    elif (role, content) == ("role", "content"):
        form = {"format": "messages"}
        form |= {"columns": {"messages": field}} if field != "messages" else {}
    else:
        entry.draft.refuse(
            entry.key,
            f"lorans reads turns by `role` and `content` or by `from` and `value`, not by `{role}` and `{content}`",
            "rename these keys in the file",
            fatal=True,
        )
        return None
    _check_turns(entry)
    for name, other in (entry.draft.get(entry.own("message_property_mappings")) or {}).items():
        if name not in ("role", "content") and name != other:
            place = entry.own(f"message_property_mappings.{name}")
            entry.draft.refuse(place, f"lorans reads the key `{name}` of a turn", "rename it in the file")
    if (tools := entry.text("field_tools", "tools")) != "tools":
        form.setdefault("columns", {})["tools"] = tools
    return form


def _turn_keys(entry: _Entry, default: tuple[str, str]) -> tuple[str, str]:
    """Return the names of the keys with the role and the text of a turn."""
    sides = zip(("role", "content"), default, strict=True)
    role, content = (
        entry.text(f"message_property_mappings.{side}") or entry.text(f"message_field_{side}", own)
        for side, own in sides
    )
    return role, content


def _check_turns(entry: _Entry) -> None:
    """Refuse settings that change the tokens of a conversation, or those that are trained on."""
    draft = entry.draft
    roles = draft.get(entry.own("roles"))
    for name, others in (roles if isinstance(roles, dict) else {}).items():
        strange = [other for other in others or () if _LORANS_ROLES.get(str(other)) != name]
        if strange:
            draft.refuse(
                entry.own(f"roles.{name}"),
                f"lorans does not treat the role `{strange[0]}` as {name}",
                "rename it in the file",
            )
    trained = draft.names(entry.own("roles_to_train"))
    if trained and {_LORANS_ROLES.get(name) for name in trained} != {"assistant"}:
        draft.refuse(
            entry.own("roles_to_train"), "lorans trains on the assistant's turns", 'or on all: `sft.train_on = "all"`'
        )
    for name, (taken, what) in _TURN_KEYS.items():
        if entry.has(name) and draft.get(entry.own(name)) not in taken:
            draft.refuse(entry.own(name), what, "remove it if you do not need it")


_TURN_KEYS: Mapping[str, tuple[Sequence[Any], str]] = {
    "train_on_eos": (("turn",), "lorans trains on the token that ends each answer, and no other"),
    "train_on_eot": (("turn",), "lorans trains on the token that ends each answer, and no other"),
    "message_field_training": (("train",), "lorans reads the key `train` of a turn"),
    "message_field_training_detail": ((), "lorans trains on whole turns"),
    "split_thinking": ((False,), "lorans reads reasoning from the key `reasoning_content`"),
    "field_thinking": (("reasoning_content", "thinking"), "lorans reads the key `reasoning_content` of a turn"),
    "template_thinking_key": (("reasoning_content",), "lorans passes `reasoning_content` to templates"),
    "drop_system_message": ((False,), "lorans passes the system turn to the template"),
}


def _write(draft: Draft, entries: Sequence[_Entry], tables: Sequence[dict[str, Any]]) -> None:
    """Write the datasets to the recipe."""
    if len(tables) > 1:
        keys = [entry.own(name) for entry, table in zip(entries, tables, strict=True) for name in _sources(table)]
        draft.path("dataset.sources", list(tables), *(key for key in dict.fromkeys(keys) if not draft.is_refused(key)))
        return
    for name, value in tables[0].items():
        keys = [key for source in _SOURCES[name] if not draft.is_refused(key := entries[0].own(source))]
        recipe = f"dataset.{'train_split' if name == 'split' else name}"
        (draft.path if name == "path" else draft.put)(recipe, value, *keys)


def _sources(table: Mapping[str, Any]) -> list[str]:
    return [source for name in table for source in _SOURCES[name]]


_TURNS = ("type", "message_property_mappings", "message_field_role", "message_field_content")


_SOURCES: Mapping[str, tuple[str, ...]] = {
    "name": ("path",),
    "path": ("path", "data_files"),
    "subset": ("name",),
    "revision": ("revision",),
    "split": ("split",),
    "slice": ("split",),
    "format": _TURNS,
    "columns": ("field", "field_messages", "field_tools", "field_chosen", "field_rejected"),
    "prompt_template": ("type",),
    "fallback_prompt_templates": ("type",),
    "completion_template": ("type",),
}
"""Source keys of each key of `[dataset]`."""


_NO_MEANING: Mapping[str, str] = {
    "ds_type": "lorans recognises a file by its name",
    "preprocess_shards": "it does not change which rows are used",
}


_READ = frozenset(
    {
        *("path", "name", "split", "revision", "type", "data_files", "field"),
        *(
            "field_messages",
            "field_chosen",
            "field_rejected",
            "field_tools",
            "field_thinking",
            "template_thinking_key",
            "split_thinking",
        ),
        *("roles", "roles_to_train", "train_on_eos", "train_on_eot", "drop_system_message"),
        *("message_property_mappings", "message_field_role", "message_field_content"),
        *("message_field_training", "message_field_training_detail"),
    }
)


_REFUSED: Mapping[str, tuple[str, str]] = {
    "shards": ("lorans has no shards", 'set `dataset.slice`, such as ":10%"'),
    "shards_idx": ("lorans has no shards", 'set `dataset.slice`, such as ":10%"'),
    "trust_remote_code": ("lorans does not run the code of a dataset", "save its rows as a file"),
    "input_transform": ("lorans does not transform rows", "transform the file"),
    "temperature": ("lorans does not support distillation", "remove it"),
    "logprobs_field": ("lorans does not support distillation", "remove it"),
}


def _account(entry: _Entry, is_read: bool) -> None:
    """Account for the remaining keys of a dataset."""
    draft = entry.draft
    for leaf in draft.source.below(entry.key):
        name = leaf.removeprefix(f"{entry.key}.").split(".")[0]
        if name in ("chat_template", "chat_template_jinja", "conversation"):
            continue  # for the next step
        if draft.is_accounted(leaf):
            continue
        if name in _NO_MEANING:
            draft.unused(leaf, _NO_MEANING[name])
        elif name in _REFUSED and draft.get(leaf) is not False:
            draft.refuse(leaf, *_REFUSED[name])
        elif name not in _READ:
            draft.refuse(leaf, "unknown to axolotl", did_you_mean(name, _READ) or "remove it")
        elif is_read:
            draft.same(leaf, "lorans does the same by default")
        else:
            draft.unused(leaf, "the dataset is not carried over")
    if str(draft.get(entry.own("type"))).startswith("sharegpt"):
        draft.amend(entry.own("type"), "removed from axolotl (now `chat_template`)")
