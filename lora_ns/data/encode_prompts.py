"""Encoding of prompts for objectives that generate: the tokens before the answer, with the row for the rewards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_ns.data.encode_text import CausalRows
from lora_ns.data.encoded import Encoded
from lora_ns.data.rows import Row
from lora_ns.data.special_tokens import asks_nothing, looks_like_chat
from lora_ns.formats import Conversation, Example, Prompt, PromptCompletion, RowFaultError
from lora_ns.rewards import Completion


@dataclass(frozen=True)
class EncodedPrompt(Encoded):
    """A prompt: its tokens, none of which is in the loss, and in `row` the JSON of what its answer is judged by."""

    def completion(self, text: str) -> Completion:
        """A completion of this prompt."""
        return completion_of(self.inputs["row"], text)


def completion_of(row: str, text: str, ids: list[int] | None = None) -> Completion:
    """A completion of a prompt, from the JSON of its row; `ids` are its tokens."""
    kept = json.loads(row)
    return Completion(text, kept["answer"], kept["values"], kept["prompt"], kept["turns"], ids or ())


class PromptRows(CausalRows):
    """Encoder of rows to prompts, in chunks."""

    def _rendered_ahead(self, _examples: Iterable[Example]) -> list[Any]:
        return []

    def _encode(self, row: Row, example: Example | None) -> list[Encoded]:
        """Return the prompt of a row; empty if it is left out. Raises `RowFaultError`."""
        example = example or self._form(row).example(row.values)
        assert isinstance(example, Prompt)
        conversation = example.conversation
        ids = self._fit_prompt(row.where, self.renderer.prompt(self._asked(conversation)))
        if ids is None:
            return []
        text = str(self.renderer.tokenizer.decode(ids))
        turns = [turn.as_turn() for turn in conversation.messages]
        kept = {"answer": example.answer, "values": example.values, "prompt": text, "turns": turns}
        prompt = EncodedPrompt(row.where, {"input_ids": ids, "row": _as_json(kept)})
        for reward in self.objective.reward_functions:
            reward.check(prompt.completion(""))
        self._note_prompt(row.where, conversation)
        return [prompt]

    def _asked(self, conversation: Conversation) -> Conversation | PromptCompletion:
        """The conversation, or its only turn as plain text if the base has no chat template."""
        if self.renderer.tokenizer.chat_template is None and len(conversation.messages) == 1:
            return PromptCompletion(conversation.messages[0].content)
        return conversation

    def _fit_prompt(self, where: str, ids: list[int]) -> list[int] | None:
        """Limit a prompt to the room beside its completion; None if it is left out. Raises `RowFaultError`."""
        objective = self.objective
        limit = objective.max_seq_length - objective.completion_length
        self.tally.longest = max(self.tally.longest, len(ids) + objective.completion_length)
        if not ids:
            raise RowFaultError("the prompt has no tokens", "add a text to it", "DATA002")
        if len(ids) <= limit:
            return ids
        self.tally.too_long.append((where, len(ids) + objective.completion_length))
        if objective.on_overflow in {"drop", "error"}:
            self.tally.dropped += 1
            return None
        self.tally.truncated += 1
        return ids[-limit:]

    def _note_prompt(self, where: str, conversation: Conversation) -> None:
        noted = self.tally.noted
        noted.ended += 1  # a prompt is no answer that could lack its end
        if asks_nothing(conversation):
            noted.add("DATA002", where)
        if looks_like_chat(conversation):
            noted.add("DATA003", where)


def _as_json(kept: dict[str, Any]) -> str:
    """The JSON of a row; values without one, such as dates, become texts."""
    return json.dumps(kept, ensure_ascii=False, default=str)
