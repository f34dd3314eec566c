"""From an example to token ids and loss mask: one renderer for training, inference and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lora_ns.data.batch_encoder import Memo
from lora_ns.data.loss_mask import Rendered, is_learned
from lora_ns.data.template_checks import OTHER_TEMPLATE, check_merged, check_shown, refusal
from lora_ns.formats import Conversation, EndlessRowError, PromptCompletion, RawText, RowFaultError
from lora_ns.model.template_limits import TemplateRefusalError, render, template_name
from lora_ns.model.tokenizing import encoded
from lora_ns.model.vocabulary import Vocabulary
from lora_ns.objectives.rendering import LossOn, Rendering
from lora_ns.safety.deadline import OverrunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "loransmark"
"""A word that appears in no row, of letters only, so that templates leave it intact."""


@dataclass(frozen=True)
class Renderer:
    """Renderer of examples for one tokenizer.

    Conversations go through the tokenizer's chat template. Plain rows are the encoded prompt, the completion and the
    end-of-sequence token. In both cases, the tokens before an answer are those of inference.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    loss_on: LossOn = "assistant"
    merges_system: bool = False
    """True if a system turn is prepended to the first user turn."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary, compare=False)
    """The tokens that the base has embeddings for."""
    template: str = "the chat template"
    """Description of the template for messages."""
    memo: Memo = field(default_factory=Memo, compare=False)

    def ahead(self, examples: Collection[Conversation | PromptCompletion | RawText]) -> None:
        """Encode everything that these examples need in one go, on all cores; the next call discards it."""
        self.memo.clear()
        chats = [self._merged(example) for example in examples if isinstance(example, Conversation)]
        for conversation in chats:
            try:
                self.memo.texts[conversation] = self._text(conversation)
            except EndlessRowError as fault:
                self.memo.endless[conversation] = fault
                break
            except RowFaultError:
                continue  # reported when the row itself is rendered
        self.memo.encode(self.tokenizer, self.memo.texts.values(), with_special_tokens=False)
        plain = [example.text for example in examples if isinstance(example, RawText)]
        for example in examples:
            if isinstance(example, PromptCompletion):
                plain += [example.prompt, example.prompt + example.completion]
        self.memo.encode(self.tokenizer, plain, with_special_tokens=True)

    def examples(self, example: Conversation | PromptCompletion | RawText) -> list[Rendered]:
        """Return the sequences of a row: one, or one per answer if the template shows only the last one completely.

        Raises:
            RowFaultError: if the template refuses the row or renders it differently than at inference, or if the base
                has no embedding for a token.
        """
        rendered = self._examples(example)
        for sequence in rendered:
            self.vocabulary.check(sequence.input_ids)
        return rendered

    def _examples(self, example: Conversation | PromptCompletion | RawText) -> list[Rendered]:
        if isinstance(example, RawText):
            ids = self._ended(self._encode_plain(example.text))
            return [Rendered(ids, [True] * len(ids))]
        if isinstance(example, PromptCompletion):
            rendered = [self._plain(example)]
        elif self.loss_on == "all":
            rendered = [self._whole(self._shown(example))]
        else:
            rendered = self._chat(self._shown(example))
        if self.loss_on == "all":
            return [Rendered(whole.input_ids, [True] * len(whole.input_ids)) for whole in rendered]
        return rendered

    def prompt(self, example: Conversation | PromptCompletion | RawText) -> list[int]:
        """Return the tokens of the prompt for the next answer, or of the start of a text. Raises `RowFaultError`."""
        ids = self._prompt(example)
        self.vocabulary.check(ids)
        return ids

    def text(self, conversation: Conversation, add_generation_prompt: bool = False) -> str:
        """Return what the chat template makes of a conversation. Raises `RowFaultError` if it refuses it."""
        return self._text(self._merged(conversation), add_generation_prompt)

    def _prompt(self, example: Conversation | PromptCompletion | RawText) -> list[int]:
        if isinstance(example, RawText):
            return self._encode_plain(example.text)
        if isinstance(example, PromptCompletion):
            return self._encode_plain(example.prompt)
        return self._encode(self._text(self._shown(example), add_generation_prompt=True))

    def _shown(self, conversation: Conversation) -> Conversation:
        """Return the conversation as it is rendered, if the template shows all of it. Raises `RowFaultError`."""
        _check_not_empty(conversation)
        merged = self._merged(conversation)
        if merged is not conversation:
            check_merged(conversation.messages[0])
        if self.tokenizer.chat_template is not None:
            check_shown(merged, self.memo.shown, self._tried)
        return merged

    def _tried(self, conversation: Conversation) -> str | None:
        """Render a conversation up to the next answer; None if the template refuses it."""
        is_answered = conversation.messages[-1].role == "assistant"
        try:
            return self._applied(conversation, add_generation_prompt=not is_answered)
        except TemplateRefusalError:
            return None

    def _merged(self, conversation: Conversation) -> Conversation:
        messages = conversation.messages
        if not self.merges_system or len(messages) < 2 or [turn.role for turn in messages[:2]] != ["system", "user"]:
            return conversation
        first = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
        return replace(conversation, messages=(first, *messages[2:]))

    def _plain(self, example: PromptCompletion) -> Rendered:
        prompt = self._encode_plain(example.prompt)
        whole = self._encode_plain(example.prompt + example.completion)
        # If a token spans the boundary, inference cannot produce it: then both parts are encoded separately.
        whole_fits = whole[: len(prompt)] == prompt
        completion = self._ended(whole[len(prompt) :] if whole_fits else self._encode(example.completion))
        return Rendered([*prompt, *completion], [False] * len(prompt) + [True] * len(completion))

    def _ended(self, ids: list[int]) -> list[int]:
        """Append the end-of-sequence token, if it is missing."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise RowFaultError(
                "the tokenizer has no end-of-sequence token, so the model would never stop",
                "choose another base",
                "EOS001",
            )
        return ids if ids[-1:] == [end] else [*ids, end]

    def _whole(self, conversation: Conversation) -> Rendered:
        """Encode a conversation without loss mask; one with answers must contain a stop token."""
        ids = self._encode(self._text(conversation))
        answers = [message for message in conversation.messages if message.role == "assistant"]
        if answers:
            self._after_stop(ids, 0, len(ids))
        return Rendered(ids, [False] * len(ids))

    def _chat(self, conversation: Conversation) -> list[Rendered]:
        messages = conversation.messages
        answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
        wanted = [number for number in answers if is_learned(messages[number], self.loss_on, number == answers[-1])]
        text = self._text(conversation)
        spans = {number: self._span(conversation, number, text) for number in answers}
        whole = all(spans.values()) or not wanted
        if whole:
            found = {number: span for number, span in spans.items() if span}
            return [self._with_spans(conversation, text, found, wanted)]
        # The template drops parts of earlier answers, such as their reasoning. Each answer then gets its own sequence,
        # rendered as at inference.
        return [self._alone(_first(conversation, number + 1)) for number in wanted]

    def _span(self, conversation: Conversation, number: int, text: str) -> tuple[int, int] | None:
        """Return the span of a turn in the text, with its end token; None if it is rendered differently when last."""
        before = self._before(conversation, number)
        is_last = number + 1 == len(conversation.messages)
        up_to = text if is_last else self._text(_first(conversation, number + 1))
        return (len(before), len(up_to)) if text.startswith(before) and text.startswith(up_to) else None

    def _before(self, conversation: Conversation, number: int) -> str:
        """Return the text before a turn. The first turn has no prompt, so a mark in its place is located."""
        if number:
            return self._text(_first(conversation, number), add_generation_prompt=True)
        opening = replace(conversation.messages[0], content=_MARK, extra={})
        before, mark, _ = self._text(replace(conversation, messages=(opening,))).partition(_MARK)
        return before if mark else _MARK

    def _alone(self, conversation: Conversation) -> Rendered:
        text, last = self._text(conversation), len(conversation.messages) - 1
        span = self._span(conversation, last, text)
        if span is None:
            raise RowFaultError(
                f"the chat template renders turn {last} without its generation prompt",
                "choose a base whose template renders answers after its generation prompt",
                "TPL002",
            )
        return self._with_spans(conversation, text, {last: span}, [last])

    def _with_spans(
        self, conversation: Conversation, text: str, spans: Mapping[int, tuple[int, int]], wanted: Sequence[int]
    ) -> Rendered:
        """Encode a text, with the wanted turns in the loss."""
        ids, tokens = self._encode_with_spans(text, list(spans.values()))
        marked = self._marked(conversation, ids)
        trained = [False] * len(ids)
        for number, (start, stop) in zip(spans, tokens, strict=True):
            if number in wanted:
                end = self._after_stop(ids, start, stop)
                trained[start:end] = [*marked[start : end - 1], True] if marked else [True] * (end - start)
        return Rendered(ids, trained)

    def _marked(self, conversation: Conversation, ids: Sequence[int]) -> list[bool] | None:
        """Return the template's own generation mask; None if it has none, or its tokens differ."""
        if "generation %}" not in str(self.tokenizer.chat_template):
            return None
        try:
            encoded = self._rendered(conversation, return_dict=True, return_assistant_tokens_mask=True)
        except TemplateRefusalError:
            return None
        if list(encoded["input_ids"]) != list(ids) or not any(encoded["assistant_masks"]):
            return None
        return [bool(mark) for mark in encoded["assistant_masks"]]

    def _encode_with_spans(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a text, and convert its spans to tokens.

        The text is encoded as a whole if the tokens of each part before a boundary are the same when it is encoded
        alone, as at inference. If a token spans a boundary, the text is encoded in pieces.
        """
        whole = self._encode(text)
        marks = self.memo.marks(self.tokenizer, text, whole)
        places = [
            (self._place(whole, text, start, marks), self._place(whole, text, stop, marks)) for start, stop in spans
        ]
        found = [(start, stop) for start, stop in places if start is not None and stop is not None]
        if len(found) == len(spans):
            return whole, found
        ids: list[int] = []
        tokens = []
        end = 0
        for start, stop in spans:
            ids += self._encode(text[end:start])
            begin = len(ids)
            ids += self._encode(text[start:stop])
            tokens.append((begin, len(ids)))
            end = stop
        return ids + self._encode(text[end:]), tokens

    def _place(self, whole: list[int], text: str, end: int, marks: Sequence[tuple[int, int]]) -> int | None:
        """Return the number of tokens before a character, if the text before it has the same tokens alone; else None.

        A tokenizer splits a text at added tokens first, so the text before the last of them is encoded the same. Only
        the rest has to be checked, mostly the same few characters.
        """
        if end == len(text):
            return len(whole)
        before = [mark for mark in marks if mark[0] <= end]
        if before:
            behind, first = before[-1]
            rest = self.memo.rest(self.tokenizer, text[behind:end])
            if whole[first : first + len(rest)] == rest:
                return first + len(rest)
        part = self._encode(text[:end])
        return len(part) if whole[: len(part)] == part else None

    def _after_stop(self, ids: Sequence[int], start: int, stop: int) -> int:
        """Return the position after an answer's stop token; the template's line break after it is not learned."""
        for index in range(stop - 1, start - 1, -1):
            if ids[index] in self.stops:
                return index + 1
        raise RowFaultError(
            "the chat template ends an answer without a stop token, so the model would never stop",
            "choose a base whose template ends its turns",
            "EOS001",
        )

    def _text(self, conversation: Conversation, add_generation_prompt: bool = False) -> str:
        _check_not_empty(conversation)
        if self.tokenizer.chat_template is None:
            raise RowFaultError(
                "the base has no chat template, but the rows are conversations",
                "use its instruct version, or write `prompt_template` and `completion_template`",
                "TPL001",
            )
        if not add_generation_prompt and conversation in self.memo.texts:
            return self.memo.texts[conversation]
        if conversation in self.memo.endless:
            raise self.memo.endless[conversation]
        try:
            return self._applied(conversation, add_generation_prompt)
        except TemplateRefusalError as error:
            raise refusal(conversation, str(error), self._tried) from None

    def _applied(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        """Render a conversation. Raises `TemplateRefusalError`, `EndlessRowError`."""
        return str(self._rendered(conversation, tokenize=False, add_generation_prompt=add_generation_prompt))

    def _rendered(self, conversation: Conversation, **arguments: Any) -> Any:
        turns = [message.as_turn() for message in conversation.messages]
        try:
            return render(self.tokenizer, turns, tools=_tools(conversation), **arguments, **self.template_kwargs)
        except OverrunError as error:
            raise EndlessRowError(f"{self.template} {error}", OTHER_TEMPLATE, "TPL005") from None

    def _encode(self, text: str) -> list[int]:
        known = self.memo.ids.get((text, False))
        if known is not None:
            return known
        return list(encoded(self.tokenizer, text, add_special_tokens=False)["input_ids"]) if text else []

    def _encode_plain(self, text: str) -> list[int]:
        ids = self.memo.ids.get((text, True)) or list(encoded(self.tokenizer, text)["input_ids"])
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[1:2] == [bos] == ids[:1]:
            ids = ids[1:]  # the text itself starts with it
        if ids and ids[-1] in self.stops and not text.endswith(str(self.tokenizer.eos_token)):
            return ids[:-1]  # the tokenizer ends every text with it
        return ids


def make_renderer(
    tokenizer: PreTrainedTokenizerBase,
    stops: tuple[int, ...],
    rendering: Rendering,
    vocabulary: Vocabulary | None = None,
) -> Renderer:
    """Create the renderer of a recipe: the same in training, validation, inference and evaluation."""
    merges = rendering.system_role == "merge-into-user"
    name = f"the chat template `{rendering.chat_template}`" if rendering.chat_template else template_name(tokenizer)
    known = vocabulary or Vocabulary()
    return Renderer(tokenizer, stops, rendering.loss_on, merges, rendering.chat_template_kwargs, known, name)


def _check_not_empty(conversation: Conversation) -> None:
    """Refuse a conversation without turns, which no template can render. Raises `RowFaultError`."""
    if not conversation.messages:
        raise RowFaultError("the conversation has no turns", "give it a question and an answer, or remove the row")


def _first(conversation: Conversation, count: int) -> Conversation:
    return replace(conversation, messages=conversation.messages[:count])


def _tools(conversation: Conversation) -> list[Any] | None:
    return list(conversation.tools) if conversation.tools else None
