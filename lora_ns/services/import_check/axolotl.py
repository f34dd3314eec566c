"""Token ids and loss mask of a row in axolotl, after its `prompt_tokenizers.py` and `prompt_strategies/`.

Instructions: axolotl tokenises prompt and answer separately. The answer gets an end-of-sequence token, but no
beginning-of-sequence token. Conversations: axolotl applies the chat template to all turns. To find the tokens of a
turn, it renders the turn again with other content and looks for the tokens that change. The next end-of-turn token
belongs to the turn if it is at most three tokens further.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import UsageError
from lora_ns.files.reading import read_text
from lora_ns.importers.source import Source
from lora_ns.importers.values import UnreadableError, flag, names, whole
from lora_ns.model.template_limits import TemplateRefusalError, render
from lora_ns.safety.deadline import OverrunError
from lora_ns.services.import_check.axolotl_prompts import CUSTOM_DEFAULTS, NAMED, rendered_chat
from lora_ns.services.import_check.reader import LeftOutError, Tokens, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AxolotlRows:
    """Row reader for an axolotl configuration. Implements `RowReader`."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._limit = int(_read(source.get("sequence_len"), whole, 512))
        self._trains_on_inputs = bool(_read(source.get("train_on_inputs"), flag, False))
        self._overflow = str(source.get("excess_length_strategy") or "drop").lower()
        _change_tokens(source, tokenizer)

    def read(self, dataset: int, row: Mapping[str, Any]) -> list[Tokens]:
        """See `RowReader`."""
        entry = self._source.values[f"datasets.{dataset}"]
        row = {key: value for key, value in row.items() if value is not None}
        kind = entry.get("type")
        if kind == "completion":
            return self._kept(self._completion(str(row.get(entry.get("field") or "text") or "")))
        if isinstance(kind, Mapping):
            return self._kept([self._instruction(*_custom_prompt(kind, row))])
        if isinstance(kind, str) and kind in NAMED:
            return self._kept([self._instruction(*NAMED[kind](row))])
        if isinstance(kind, str) and (kind == "chat_template" or kind.startswith("sharegpt")):
            return self._kept([self._conversation(_TurnReader(self._source, entry, kind), row)])
        raise UnsupportedError(f"`--check` does not support rows of type `{kind}`")

    def reason(self, theirs: Tokens, ours: Tokens) -> str:
        """See `RowReader`."""
        if self._trains_on_inputs and theirs.count > ours.count:
            return "`train_on_inputs: true`"
        only = ours.trained_only_here(theirs)
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        if only and all(token in special for token in only):
            shown = self._tokenizer.decode(only[:1])
            return f"axolotl trains on the end-of-turn token `{shown}` only if `eot_tokens` or the tokenizer names it"
        return ""

    def _kept(self, sequences: Sequence[Tokens]) -> list[Tokens]:
        """Drop or truncate sequences as axolotl does. Raises `LeftOutError` if none remains."""
        found = []
        why = "it is empty"
        for sequence in sequences:
            cut = Tokens(sequence.ids[: self._limit], sequence.trained[: self._limit])
            if len(sequence.ids) < _LEAST:
                why = f"shorter than {_LEAST} tokens"
            elif len(sequence.ids) > self._limit and self._overflow != "truncate":
                why = f"{len(sequence.ids)} tokens, longer than `sequence_len: {self._limit}`"
            elif not any(cut.trained):
                why = "none of its tokens are in the loss"
            else:
                found.append(cut)
        if not found:
            raise LeftOutError(why)
        return found

    # Plain text

    def _encode(self, text: str, ends: bool, limit: int) -> list[int]:
        """Tokenise a text up to `limit` tokens; with `ends`, add a missing end-of-sequence token if there is room."""
        if not text:
            return []
        ids = list(self._tokenizer(text, truncation=True, max_length=limit)["input_ids"])
        if ends and ids and ids[-1] != self._tokenizer.eos_token_id and len(ids) < limit:
            ids.append(self._tokenizer.eos_token_id)
        return ids

    def _instruction(self, prompt: str, answer: str) -> Tokens:
        before = self._encode(prompt, False, self._limit)
        after = self._encode(answer, True, self._limit)
        if after[:1] == [self._tokenizer.bos_token_id]:
            after = after[1:]
        return Tokens((*before, *after), (self._trains_on_inputs,) * len(before) + (True,) * len(after))

    def _completion(self, text: str) -> list[Tokens]:
        ids = tuple(self._encode(text, True, _PIECES * self._limit))
        pieces = [ids[start : start + self._limit] for start in range(0, len(ids), self._limit)]
        return [Tokens(piece, (True,) * len(piece)) for piece in pieces]

    # Conversations

    def _conversation(self, reader: _TurnReader, row: Mapping[str, Any]) -> Tokens:
        turns, wanted = reader.turns(row, self._trains_on_inputs)
        tools = _parsed(row.get(reader.tools))
        ids = self._chat(reader, turns, tools)
        trained = [False] * len(ids)
        ends = reader.end_tokens(self._tokenizer)
        last = {"eot": -1, "eos": -1}
        for number, is_wanted in enumerate(wanted):
            if not is_wanted and "all" not in reader.trained_ends.values():
                continue
            start, stop = self._span(reader, turns[: number + 1], tools)
            if is_wanted and start >= 0:
                trained[start:stop] = [True] * (min(stop, len(ids)) - start)
            for kind, tokens in ends.items():
                place = next((at for at in range(max(0, stop), len(ids)) if ids[at] in tokens), None)
                if place is None or abs(place - stop) > _REACH:
                    continue
                last[kind] = place
                rule = reader.trained_ends[kind]
                if rule == "all" or (rule == "turn" and is_wanted):
                    trained[place] = True
        for kind, place in last.items():
            if reader.trained_ends[kind] == "last" and place >= 0:
                trained[place] = True
        return Tokens(tuple(ids), tuple(trained))

    def _span(self, reader: _TurnReader, turns: list[dict[str, Any]], tools: Any) -> tuple[int, int]:
        """Return start and end of the last turn's content: the tokens that change with it; -1 if there are none."""
        other = [*turns[:-1], {"role": turns[-1].get("role"), "content": _DUMMY_CONTENT}]
        full, dummy = self._chat(reader, turns, tools), self._chat(reader, other, tools)
        shorter = range(min(len(full), len(dummy)))
        start = next((at for at in shorter if full[at] != dummy[at]), None)
        back = next((at for at in shorter if full[-1 - at] != dummy[-1 - at]), None)
        if start is None or back is None or len(full) - back <= start:
            return -1, -1
        return start, len(full) - back

    def _chat(self, reader: _TurnReader, turns: Sequence[dict[str, Any]], tools: Any) -> list[int]:
        name = reader.template
        text = rendered_chat(name, turns, str(self._tokenizer.bos_token or "")) if name else None
        if text is None:
            more = {"tools": tools} if tools else {}
            chosen = {"chat_template": reader.jinja} if reader.jinja else {}
            try:
                text = str(render(self._tokenizer, turns, tokenize=False, **more, **chosen))
            except (TemplateRefusalError, OverrunError) as error:
                raise LeftOutError(f"the chat template rejects it: {error}") from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


_LEAST = 2
"""Minimum number of tokens of a row; axolotl drops shorter ones."""


_PIECES = 64
"""Maximum number of pieces of `sequence_len` tokens that a text of type `completion` is split into."""


_REACH = 3
"""Maximum number of tokens between the content of a turn and its end-of-turn token."""


_DUMMY_CONTENT = "[[dummy_message]]"
"""Content that axolotl substitutes. It must be the same here, since real content may share tokens with it."""


def _change_tokens(source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
    special = dict(source.get("special_tokens") or {})
    more = special.pop("additional_special_tokens", None)
    if given := {role: str(token) for role, token in special.items() if token is not None}:
        tokenizer.add_special_tokens(given)
    tokenizer.add_tokens([str(token) for token in source.get("tokens") or []])
    if more:
        tokenizer.add_tokens([str(token) for token in more], special_tokens=True)


def _read(value: Any, reader: Any, default: Any) -> Any:
    try:
        return default if value is None else reader(value)
    except UnreadableError:
        return default


def _parsed(value: Any) -> Any:
    """Parse a value that some datasets store as a JSON string."""
    try:
        return json.loads(value) if isinstance(value, str) and value else value
    except ValueError:
        raise LeftOutError("its turns or tools are not valid JSON") from None


def _custom_prompt(kind: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the prompt and the answer of a custom type."""
    form = {**CUSTOM_DEFAULTS, **{name: value for name, value in kind.items() if value is not None}}
    instruction = row.get(form["field_instruction"], "")
    given = row.get(form["field_input"], "")
    system = row.get(form["field_system"], form["system_prompt"])
    values = {"instruction": str(instruction), "input": str(given), "system": str(system)}
    before = _filled(form["system_format"], values) if system and form["system_format"] else ""
    prompt = before + _filled(form["format"] if given else form["no_input_format"], values)
    return prompt, str(row.get(form["field_output"], ""))


def _filled(template: str, values: Mapping[str, str]) -> str:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UnsupportedError(f"a prompt format is not a valid template: {error}") from None
    if unknown := [name for _, name, spec, conversion in parts if name is not None and (spec or conversion)]:
        raise UnsupportedError(f"`--check` does not support format specifications, such as that of `{unknown[0]}`")
    return "".join(text + ("" if name is None else values.get(name, "")) for text, name, _, _ in parts)


class _TurnReader:
    """Reader of a dataset's turns that also decides which of them are in the loss."""

    def __init__(self, source: Source, entry: Mapping[str, Any], kind: str) -> None:
        is_old = kind.startswith("sharegpt")
        self._entry = entry
        self._field = entry.get("field_messages") or ("conversations" if is_old else "messages")
        defaults = ("from", "value") if is_old else ("role", "content")
        self._names = dict(entry.get("message_property_mappings") or {})
        for name, default in zip(("role", "content"), defaults, strict=True):
            self._names.setdefault(name, entry.get(f"message_field_{name}") or default)
        self._roles = {other: name for name, others in (entry.get("roles") or _ROLES).items() for other in others}
        trained = _read(entry.get("roles_to_train"), names, ["assistant"])
        self._trained = {self._roles.get(name, name) for name in trained}
        self.tools = str(entry.get("field_tools") or "tools")
        eos = entry.get("train_on_eos") or "turn"
        self.trained_ends = {"eot": entry.get("train_on_eot") or eos, "eos": eos}
        self._eot = source.get("eot_tokens")
        for name in ("message_field_training_detail", "split_thinking"):
            if entry.get(name):
                raise UnsupportedError(f"`--check` does not support `{name}`")
        self.template, self.jinja = _template(source, entry)

    def turns(self, row: Mapping[str, Any], trains_on_inputs: bool) -> tuple[list[dict[str, Any]], list[bool]]:
        """Return the turns for the chat template, and for each of them whether it is in the loss."""
        messages = _parsed(row.get(self._field))
        if not isinstance(messages, Sequence) or not messages:
            raise LeftOutError(f"`{self._field}` has no turns")
        turns, wanted = [], []
        for message in messages:
            turn = {name: message[own] for name, own in self._names.items() if message.get(own) is not None}
            turn |= {name: message[name] for name in _MORE if message.get(name) is not None}
            if isinstance(turn.get("content"), list):
                raise UnsupportedError("`--check` does not support turns whose content is a list")
            turn["role"] = self._roles.get(turn.get("role"), turn.get("role"))
            key = self._entry.get("message_field_training")
            own = message.get(key) if key else None
            turns.append(turn)
            wanted.append(bool(own) if own is not None else trains_on_inputs or turn["role"] in self._trained)
        if turns[0]["role"] != "system" and (system := row.get("system")) is not None:
            turns.insert(0, {"role": "system", "content": system})
            wanted.insert(0, trains_on_inputs or "system" in self._trained)
        if self._entry.get("drop_system_message") and turns[0]["role"] == "system":
            turns, wanted = turns[1:], wanted[1:]
        return turns, wanted

    def end_tokens(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, set[int]]:
        """Return the ids of the end-of-turn tokens (`eot`) and of the end-of-sequence token (`eos`)."""
        eos = {tokenizer.eos_token_id} - {None}
        if self._eot is None:
            return {"eot": eos, "eos": eos}
        named = [tokenizer.encode(str(token), add_special_tokens=False) for token in self._eot]
        return {"eot": {ids[0] for ids in named if len(ids) == 1}, "eos": eos}


_ROLES: Mapping[str, Sequence[str]] = {
    "user": ("human", "user"),
    "assistant": ("gpt", "assistant"),
    "system": ("system",),
    "tool": ("tool",),
}


_MORE = ("reasoning_content", "tool_calls", "tool_call_id", "name")
"""Other keys of a turn that chat templates render."""


def _template(source: Source, entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of an axolotl chat template, or Jinja source; both are empty for the tokenizer's template."""
    owner: Mapping[str, Any] = entry if entry.get("chat_template") else source.values
    name = str(owner.get("chat_template") or entry.get("conversation") or "tokenizer_default")
    if name == "jinja":
        jinja = str(owner.get("chat_template_jinja") or "")
        if "{" not in jinja:
            try:
                jinja = read_text(Path(jinja), UsageError, most=1_000_000)
            except UsageError as error:
                raise UnsupportedError(str(error)) from None
        return "", jinja
    if name.startswith("tokenizer_default"):
        return "", ""
    return name, ""
