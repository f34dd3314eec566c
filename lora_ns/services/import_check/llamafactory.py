"""Token ids and loss mask of a row in LLaMA-Factory, after its `data/converter.py` and `processor/supervised.py`.

LLaMA-Factory tokenises each turn separately, with the text that its template puts around it. The loss includes all text
that the template puts after an answer. In rows that are too long, prompt and answer are truncated in proportion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import UsageError
from lora_ns.files.reading import read_text
from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names, whole
from lora_ns.services.import_check.llamafactory_templates import BOS, EOS, TEMPLATES, Slots, filled
from lora_ns.services.import_check.reader import LeftOutError, Tokens, UnsupportedError, value_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LlamaFactoryRows:
    """Row reader for a LLaMA-Factory configuration. Implements `RowReader`."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        if (stage := source.get("stage") or "sft") != "sft":
            raise UnsupportedError(f"`--check` does not support `stage: {stage}`")
        name = str(source.get("template") or "")
        if name not in TEMPLATES:
            raise UnsupportedError(f"`--check` does not support the template `{name}`")
        self._template = TEMPLATES[name]
        self._tokenizer = tokenizer
        if self._template.end:
            tokenizer.add_special_tokens({"eos_token": self._template.end})
        self._system = str(source.get("default_system") or self._template.system_text)
        self._trains_on_prompt = bool(value_of(source, "train_on_prompt", flag, False))
        self._masks_history = bool(value_of(source, "mask_history", flag, False))
        packs = any(value_of(source, key, flag, False) for key in ("packing", "neat_packing"))
        self._limit = int(value_of(source, "cutoff_len", whole, 2048)) - packs
        self._entries = _entries(source)

    def read(self, dataset: int, row: Mapping[str, Any]) -> list[Tokens]:
        """See `RowReader`."""
        entry = self._entries[dataset]
        turns, system = entry.conversation(row) if entry.is_conversation else entry.instruction(row)
        if not turns or len(turns) % 2:
            raise LeftOutError("its turns do not alternate between user and assistant")
        rounds = list(zip(turns[::2], turns[1::2], strict=True))
        pairs = [self._round(number, *one, system or self._system) for number, one in enumerate(rounds)]
        tokens = self._joined(pairs[::-1] if self._masks_history else pairs)
        if not any(tokens.trained[1:]):
            raise LeftOutError("none of its tokens are in the loss")
        return [tokens]

    def reason(self, theirs: Tokens, ours: Tokens) -> str:
        """See `RowReader`."""
        if self._trains_on_prompt and theirs.count > ours.count:
            return "`train_on_prompt: true`"
        only = theirs.trained_only_here(ours)
        if only and not str(self._tokenizer.decode(only)).strip():
            return "LLaMA-Factory also trains on the white space that its template puts after an answer"
        return ""

    def _round(self, number: int, ask: str, answer: str, system: str) -> tuple[list[int], list[int]]:
        template = self._template
        opening: Slots = template.prefix if number == 0 else ()
        if number == 0 and system and template.joins_system:
            ask = "".join(str(part) for part in filled(template.system, system)) + ask
        elif number == 0 and system:
            opening = (*opening, *filled(template.system, system))
        before = self._encode((*opening, *filled(template.user, ask)))
        return before, self._encode(filled(template.assistant, answer))

    def _encode(self, slots: Slots) -> list[int]:
        ids: list[int] = []
        for slot in slots:
            if slot in (BOS, EOS):
                special = self._tokenizer.bos_token_id if slot == BOS else self._tokenizer.eos_token_id
                ids += [] if special is None else [special]
            elif slot:
                ids += list(self._tokenizer(slot, add_special_tokens=False)["input_ids"])
        return ids

    def _joined(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Tokens:
        """Join rounds up to the length limit; with `mask_history`, from the last one backwards."""
        ids: list[int] = []
        trained: list[bool] = []
        for at, (prompt, answer) in enumerate(pairs):
            room = self._limit - len(ids)
            if room <= 0:
                break
            kept_prompt, kept_answer = _share(len(prompt), len(answer), room)
            prompt, answer = prompt[:kept_prompt], answer[:kept_answer]  # noqa: PLW2901
            is_trained = not (self._masks_history and at)
            marks = [self._trains_on_prompt] * len(prompt) + [is_trained] * len(answer)
            if self._masks_history:
                ids, trained = [*prompt, *answer, *ids], [*marks, *trained]
            else:
                ids, trained = [*ids, *prompt, *answer], [*trained, *marks]
        return Tokens(tuple(ids), tuple(trained))


def _share(prompt: int, answer: int, room: int) -> tuple[int, int]:
    """Return the lengths to keep: all of a side that needs less than half the room, otherwise both in proportion."""
    if answer * 2 < room:
        most = room
    elif prompt * 2 < room:
        most = room - prompt
    else:
        most = int(room * (answer / (prompt + answer)))
    kept = min(most, answer)
    return min(max(room - kept, 0), prompt), kept


# Datasets


class _Entry:
    """An entry of `dataset_info.json`, which reads the rows of its dataset."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        kind = table.get("formatting") or "alpaca"
        if kind not in ("alpaca", "sharegpt"):
            raise UnsupportedError(f"`--check` does not support `formatting: {kind}`")
        self.is_conversation = kind == "sharegpt"
        columns = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
        tags["system_tag"] = "system"
        # A table in the entry replaces all defaults, not only those of its keys.
        self._columns: Mapping[str, Any] = table.get("columns") or columns
        self._tags: Mapping[str, Any] = table.get("tags") or tags
        if self._columns.get("tools"):
            raise UnsupportedError("`--check` does not support rows with tools")

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        return str(row.get(self._columns.get(name) or "") or "")

    def instruction(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """Return the turns of a row, alternately user and assistant, and its system prompt."""
        before = row.get(self._columns.get("history") or "") or []
        history = [str(text) for one in before for text in one]
        prompt = [text for name in ("prompt", "query") if (text := self._text(row, name))]
        return [*history, "\n".join(prompt), self._text(row, "response")], self._text(row, "system")

    def conversation(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """Return the turns and the system prompt of a conversation; no turns if they do not alternate."""
        tags = self._tags
        messages = list(row.get(self._columns.get("messages") or "") or [])
        system = self._text(row, "system")
        role, content = str(tags.get("role_tag")), str(tags.get("content_tag"))
        if messages and tags.get("system_tag") and messages[0].get(role) == tags["system_tag"]:
            system, messages = str(messages[0].get(content)), messages[1:]
        turns = []
        for at, message in enumerate(messages):
            speaker = message.get(role)
            if speaker in (tags.get("observation_tag", "observation"), tags.get("function_tag", "function_call")):
                raise UnsupportedError("`--check` does not support tool turns")
            if speaker != tags.get("assistant_tag" if at % 2 else "user_tag"):
                return [], system
            turns.append(str(message.get(content)))
        return turns, system


def _entries(source: Source) -> list[_Entry]:
    """Look up the datasets in `dataset_info.json`. Raises `UnsupportedError`."""
    folder = Path(str(source.get("dataset_dir") or "data"))
    places = [folder / "dataset_info.json", source.path.parent / folder / "dataset_info.json"]
    places.append(source.path.parent / "dataset_info.json")
    info = next((place for place in places if place.is_file()), places[0])
    try:
        tables = json.loads(read_text(info, UsageError, most=10_000_000))
        return [_Entry(tables[name]) for name in value_of(source, "dataset", names, [])]
    except UsageError as error:
        raise UnsupportedError(str(error)) from None
    except (ValueError, KeyError, TypeError):
        raise UnsupportedError(f"{info} is not valid JSON, or lacks a dataset that the configuration names") from None
