"""The tokens that TRL makes of a row, by the rules of `SFTTrainer._prepare_dataset` (`trl/trainer/sft_trainer.py`).

The columns say what a row is. Conversations: the chat template is applied to the whole. Plain text: the tokenizer adds
the token that begins a text, and the text ends with the end-of-sequence token. A completion begins where the tokens of
the whole differ from those of the prompt alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import UsageError, first_line
from lora_ns.files.reading import read_text
from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names
from lora_ns.model.template_limits import TemplateRefusalError, is_of_template, render
from lora_ns.safety.deadline import OverrunError, bounded
from lora_ns.services.import_check.reader import LeftOutError, Tokens, UnsupportedError, value_of
from lora_ns.services.import_check.trl_numbers import longer_rows, longest_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TrlRows:
    """Reader of rows by a TRL configuration. Implements `RowReader`."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        if bool((source.get("dataset_kwargs") or {}).get("skip_prepare_dataset")):
            raise UnsupportedError("`--check` does not support `skip_prepare_dataset`")
        self._tokenizer = tokenizer
        _change_tokenizer(source, tokenizer)
        self._text = str(source.get("dataset_text_field") or "text")
        self._completions: bool | None = value_of(source, "completion_only_loss", flag, None)
        self._answers = bool(value_of(source, "assistant_only_loss", flag, False))
        self._template = _training_template(tokenizer) if self._answers else None
        self._limit, self._longer = longest_row(source), longer_rows(source)
        if self._longer not in _WAYS:
            raise UnsupportedError(f"`--check` does not support rows that are {self._longer}")
        self._columns = _columns(source)

    def read(self, dataset: int, row: Mapping[str, Any]) -> list[Tokens]:
        """See `RowReader`."""
        columns = self._columns[dataset] if self._columns else []
        row = {name: value for name, value in row.items() if not columns or name in columns}
        if unknown := [name for name in ("input_ids", "image", "images") if name in row]:
            raise UnsupportedError(f"`--check` does not support rows with `{unknown[0]}`")
        if _is_from_value(row):
            row = _with_roles(row)
        elif not _is_conversation(row):
            row = self._ended(row)
        pieces = self._pieces(self._prompted(row) if "prompt" in row else self._whole(row))
        if not any(any(one.trained) for one in pieces):
            raise LeftOutError("no token of it would be learned")
        return pieces

    def reason(self, theirs: Tokens, ours: Tokens) -> str:
        """See `RowReader`."""
        only = theirs.trained_only_here(ours)
        if only and not str(self._tokenizer.decode(only)).strip():
            return "TRL also trains on the white space that the chat template prints after an answer"
        if all(theirs.trained) and self._completions is False:
            return "`completion_only_loss: false`"
        if all(theirs.trained):
            return "TRL trains on all tokens of conversations and texts without `assistant_only_loss: true`"
        return ""

    def _ended(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """End the text with the end-of-sequence token, or else the completion. TRL never does both."""
        ended, end = dict(row), str(self._tokenizer.eos_token)
        for name in (self._text, "completion"):
            if name in ended and not ended[name].endswith(end):
                ended[name] += end
                break
        return ended

    def _whole(self, row: Mapping[str, Any]) -> Tokens:
        """Tokenise a conversation or a text, of which all tokens are learned unless the template marks some."""
        if _is_conversation(row):
            ids, trained = self._chat(row["messages"], row)
        elif self._text in row:
            ids = self._encode(row[self._text])
            trained = [True] * len(ids)
        else:
            found = ", ".join(f"`{name}`" for name in row)
            reads = f"`messages`, `prompt` with `completion`, or `{self._text}`"
            raise UnsupportedError(f"TRL reads {reads}, and stops at a row with {found}")
        return Tokens(tuple(ids), tuple(trained))

    def _prompted(self, row: Mapping[str, Any]) -> Tokens:
        """Tokenise a prompt with its completion."""
        if "completion" not in row:
            raise UnsupportedError("TRL stops at a row that has `prompt` without `completion`: name its `columns`")
        prompt, both = row["prompt"], row["prompt"] + row["completion"]
        if _is_conversation(row):
            before, _ = self._chat(prompt, row, opens_answer=True)
            ids, marked = self._chat(both, row)
        else:
            before, ids = self._encode(prompt), self._encode(both)
            marked = [True] * len(ids)
        pairs = enumerate(zip(before, ids, strict=False))
        start = next((at for at, (one, other) in pairs if one != other), min(len(before), len(ids)))
        learns_prompt = self._completions is False
        trained = [mark and (learns_prompt or at >= start) for at, mark in enumerate(marked)]
        return Tokens(tuple(ids), tuple(trained))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text=text)["input_ids"])

    def _chat(
        self, turns: Sequence[Mapping[str, Any]], row: Mapping[str, Any], opens_answer: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Return the tokens of turns, and which of them are learned by the marks of the template."""
        if not self._tokenizer.chat_template:
            raise UnsupportedError("the tokenizer has no chat template, and TRL stops at a conversation")
        tools = row.get("tools")
        arguments = {
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            "chat_template": self._template,
            **(row.get("chat_template_kwargs") or {}),
            **({"add_generation_prompt": True} if opens_answer else {}),
            **({"return_assistant_tokens_mask": True} if self._answers and not opens_answer else {}),
        }
        try:
            found = render(self._tokenizer, turns, tokenize=True, return_dict=True, **arguments)
        except (TemplateRefusalError, OverrunError) as error:
            raise UnsupportedError(f"TRL stops at a row that the chat template refuses: {error}") from None
        ids = list(found["input_ids"])
        marks = [bool(mark) for mark in found["assistant_masks"]] if "assistant_masks" in found else [True] * len(ids)
        if not any(marks):
            raise UnsupportedError("TRL stops at a row of which the chat template marks nothing as an answer")
        return ids, marks

    def _pieces(self, tokens: Tokens) -> list[Tokens]:
        """Shorten or split what is too long."""
        limit = self._limit
        if limit is None or len(tokens.ids) <= limit:
            return [tokens]
        starts = {
            "truncate": [0],
            "cut at the beginning": [len(tokens.ids) - limit],
            "split": range(0, len(tokens.ids), limit),
        }
        spans = [slice(start, start + limit) for start in starts[self._longer]]
        return [Tokens(tokens.ids[span], tokens.trained[span]) for span in spans]


_WAYS = ("truncate", "cut at the beginning", "split")
"""Ways with long rows that this reader knows."""


# What a row is


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], dict) and "role" in value[0]


def _is_conversation(row: Mapping[str, Any]) -> bool:
    return _is_turns(row.get("prompt" if "prompt" in row else "messages"))


def _is_from_value(row: Mapping[str, Any]) -> bool:
    turns = row.get("conversations")
    return isinstance(turns, list) and {"from", "value"} <= set(turns[0])


def _with_roles(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of turns. The names of the roles stay, such as `human`."""
    keys = {"from": "role", "value": "content"}
    turns = [{keys.get(name, name): value for name, value in turn.items()} for turn in row["conversations"]]
    return {**{name: value for name, value in row.items() if name != "conversations"}, "messages": turns}


# The configuration


def _columns(source: Source) -> list[list[str]]:
    """Return the columns of each data set of a mixture; nothing for a single data set."""
    entries = source.get("datasets") or source.get("dataset_mixture.datasets") or []
    columns = [list(names(entry.get("columns") or [])) for entry in entries]
    kinds = [sorted({"messages", "conversations", "prompt"} & set(one)) for one in columns]
    if any(one != kinds[0] for one in kinds):
        raise UnsupportedError("`--check` does not support a mixture of rows in several formats")
    return columns


def _change_tokenizer(source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the end-of-sequence token and the chat template that a configuration names. Raises `UnsupportedError`."""
    if end := source.get("eos_token"):
        if end not in tokenizer.get_vocab():
            raise UnsupportedError(f"the tokenizer has no token `{end}` (`eos_token`), and TRL stops there")
        tokenizer.eos_token = end
    if template := source.get("chat_template"):
        tokenizer.chat_template = template
    path = source.get("chat_template_path")
    if path is None or path == source.get("model_name_or_path"):
        return
    if not str(path).endswith((".jinja", ".j2")):
        raise UnsupportedError("`--check` does not support the chat template of another model (`chat_template_path`)")
    try:
        tokenizer.chat_template = read_text(Path(str(path)), UsageError, most=1_000_000)
    except UsageError as error:
        raise UnsupportedError(str(error)) from None


_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the template with marks around answers that TRL has in place of the tokenizer's, if that has none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None or _MARKS.search(str(template)):
        return None
    try:
        from trl.chat_template_utils import get_training_chat_template
    except ImportError:
        raise UnsupportedError("TRL, whose own chat templates `assistant_only_loss` takes, is not installed") from None
    try:
        return str(bounded(lambda: get_training_chat_template(tokenizer)))
    except (ValueError, OverrunError):
        what = "the chat template has no `{% generation %}`, and TRL has none in its place"
        raise UnsupportedError(f"{what}: it stops at `assistant_only_loss`") from None
    except Exception as error:
        if not is_of_template(error):
            raise
        raise UnsupportedError(f"TRL stops at the chat template: {first_line(error)}") from None
