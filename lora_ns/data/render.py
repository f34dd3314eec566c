"""From an example to token ids and the tokens that are learned: one renderer for training, inference and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lora_ns.data.batch_encoder import Memo
from lora_ns.data.loss_mask import Rendered, TrainOn, is_learned
from lora_ns.data.template_checks import OTHER_TEMPLATE, check_merged, check_shown, refusal
from lora_ns.formats import Conversation, EndlessRowError, PromptCompletion, RawText, RowFaultError
from lora_ns.model.template_limits import TemplateRefusalError, render, template_name
from lora_ns.model.tokenizing import encoded
from lora_ns.model.vocabulary import Vocabulary
from lora_ns.objectives.rendering import Rendering
from lora_ns.safety.deadline import OverrunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "loransmark"
"""A word that no row has, of letters alone: a template leaves it whole."""


@dataclass(frozen=True)
class Renderer:
    """Renders examples with one tokenizer.

    Chat rows go through the tokenizer's own chat template, plain ones are the prompt as the tokenizer encodes it
    followed by the completion and the end token. Either way the tokens before an answer are those that inference feeds.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    train_on: TrainOn = "assistant"
    merges_system: bool = False
    """Whether a system turn becomes the beginning of the first user turn."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables that the chat template reads."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary, compare=False)
    """What the base has embeddings for."""
    template: str = "the chat template"
    """Which template it is, for messages."""
    memo: Memo = field(default_factory=Memo, compare=False)

    def ahead(self, examples: Collection[Conversation | PromptCompletion | RawText]) -> None:
        """Encode what these examples will need in one go, on all cores; it is forgotten at the next call."""
        self.memo.clear()
        chats = [self._merged(example) for example in examples if isinstance(example, Conversation)]
        for conversation in chats:
            try:
                self.memo.texts[conversation] = self._text(conversation)
            except EndlessRowError as fault:
                self.memo.endless[conversation] = fault
                break
            except RowFaultError:
                continue  # it is told when the row itself is rendered
        self.memo.encode(self.tokenizer, self.memo.texts.values(), with_special_tokens=False)
        plain = [example.text for example in examples if isinstance(example, RawText)]
        for example in examples:
            if isinstance(example, PromptCompletion):
                plain += [example.prompt, example.prompt + example.completion]
        self.memo.encode(self.tokenizer, plain, with_special_tokens=True)

    def examples(self, example: Conversation | PromptCompletion | RawText) -> list[Rendered]:
        """What a row teaches: one sequence, or one for each answer where the template shows only the last one whole.

        Raises:
            RowFaultError: if the template refuses the row, or does not render it the way it would at inference; or if
                it has a token that the base has no embedding for.
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
        elif self.train_on == "all":
            rendered = [self._whole(self._shown(example))]
        else:
            rendered = self._chat(self._shown(example))
        if self.train_on == "all":
            return [Rendered(whole.input_ids, [True] * len(whole.input_ids)) for whole in rendered]
        return rendered

    def prompt(self, example: Conversation | PromptCompletion | RawText) -> list[int]:
        """The tokens that ask for the next answer, or that a text begins with. Raises `RowFaultError`."""
        ids = self._prompt(example)
        self.vocabulary.check(ids)
        return ids

    def _prompt(self, example: Conversation | PromptCompletion | RawText) -> list[int]:
        if isinstance(example, RawText):
            return self._encode_plain(example.text)
        if isinstance(example, PromptCompletion):
            return self._encode_plain(example.prompt)
        return self._encode(self._text(self._shown(example), add_generation_prompt=True))

    def _shown(self, conversation: Conversation) -> Conversation:
        """The conversation as it is rendered, if the template shows all of it. Raises `RowFaultError`."""
        _check_not_empty(conversation)
        merged = self._merged(conversation)
        if merged is not conversation:
            check_merged(conversation.messages[0])
        if self.tokenizer.chat_template is not None:
            check_shown(merged, self.memo.shown, self._tried)
        return merged

    def _tried(self, conversation: Conversation) -> str | None:
        """The text of a conversation, ready for the next answer; None if the template refuses it."""
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
        # Where a token reaches over the boundary, inference cannot know it: then both sides are encoded alone.
        whole_fits = whole[: len(prompt)] == prompt
        completion = self._ended(whole[len(prompt) :] if whole_fits else self._encode(example.completion))
        return Rendered([*prompt, *completion], [False] * len(prompt) + [True] * len(completion))

    def _ended(self, ids: list[int]) -> list[int]:
        """Tokens that the end token closes."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise RowFaultError(
                "the tokenizer has no end token, so the model would never stop", "choose another base", "EOS001"
            )
        return ids if ids[-1:] == [end] else [*ids, end]

    def _whole(self, conversation: Conversation) -> Rendered:
        """The tokens of a conversation, none of them trained yet; an answer ends in a stop token among them."""
        ids = self._encode(self._text(conversation))
        answers = [message for message in conversation.messages if message.role == "assistant"]
        if answers:
            self._after_stop(ids, 0, len(ids))
        return Rendered(ids, [False] * len(ids))

    def _chat(self, conversation: Conversation) -> list[Rendered]:
        messages = conversation.messages
        answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
        wanted = [number for number in answers if is_learned(messages[number], self.train_on, number == answers[-1])]
        text = self._text(conversation)
        spans = {number: self._span(conversation, number, text) for number in answers}
        whole = all(spans.values()) or not wanted
        if whole:
            found = {number: span for number, span in spans.items() if span}
            return [self._with_spans(conversation, text, found, wanted)]
        # The template drops something of earlier answers, such as their reasoning: each answer gets a row of its own,
        # rendered as it is asked for.
        return [self._alone(_first(conversation, number + 1)) for number in wanted]

    def _span(self, conversation: Conversation, number: int, text: str) -> tuple[int, int] | None:
        """Where in the text a turn stands, end token included; None if it is rendered another way when it is last."""
        before = self._before(conversation, number)
        is_last = number + 1 == len(conversation.messages)
        up_to = text if is_last else self._text(_first(conversation, number + 1))
        return (len(before), len(up_to)) if text.startswith(before) and text.startswith(up_to) else None

    def _before(self, conversation: Conversation, number: int) -> str:
        """The text up to a turn. What opens a conversation is asked for by nothing: there it is what a mark follows."""
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
                f"the chat template renders turn {last} another way than it asks for it",
                "choose a base whose template asks for an answer the way it renders one",
                "TPL002",
            )
        return self._with_spans(conversation, text, {last: span}, [last])

    def _with_spans(
        self, conversation: Conversation, text: str, spans: Mapping[int, tuple[int, int]], wanted: Sequence[int]
    ) -> Rendered:
        """The tokens of a text, of which the wanted ones of these turns are trained."""
        ids, tokens = self._encode_with_spans(text, list(spans.values()))
        marked = self._marked(conversation, ids)
        trained = [False] * len(ids)
        for number, (start, stop) in zip(spans, tokens, strict=True):
            if number in wanted:
                end = self._after_stop(ids, start, stop)
                trained[start:end] = [*marked[start : end - 1], True] if marked else [True] * (end - start)
        return Rendered(ids, trained)

    def _marked(self, conversation: Conversation, ids: Sequence[int]) -> list[bool] | None:
        """What the template itself marks as generated; None if it marks nothing, or counts its tokens another way."""
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
        """The tokens of a text, and the spans in tokens.

        The text is encoded whole if the tokens of each part before a boundary come out the same alone, as inference
        encodes it; otherwise, where a token would reach over a boundary, it is encoded in pieces.
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
        """How many of a text's tokens the text up to a character has when it is encoded alone; None if others.

        Added tokens are cut out of a text before all else, so what stands before the last of them is encoded the same:
        only the rest, mostly the same few characters, has to be looked at.
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
        """Where an answer's end token is behind us; the line break after it is the template's and not learned."""
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
                "the base has no chat template, and the rows are conversations",
                "take its instruct edition, or write `prompt_template` and `completion_template`",
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
        """The text of a conversation. Raises `TemplateRefusalError`, `EndlessRowError`."""
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
            ids = ids[1:]  # a text that begins with it by itself
        if ids and ids[-1] in self.stops and not text.endswith(str(self.tokenizer.eos_token)):
            return ids[:-1]  # a tokenizer that ends every text by itself
        return ids


def make_renderer(
    tokenizer: PreTrainedTokenizerBase, stops: tuple[int, ...], asked: Rendering, vocabulary: Vocabulary | None = None
) -> Renderer:
    """The renderer of a recipe: the same for training, validation, inference and evaluation."""
    merges = asked.system_role == "merge-into-user"
    name = f"the chat template `{asked.chat_template}`" if asked.chat_template else template_name(tokenizer)
    known = vocabulary or Vocabulary()
    return Renderer(tokenizer, stops, asked.train_on, merges, asked.chat_template_kwargs, known, name)


def _check_not_empty(conversation: Conversation) -> None:
    """A conversation without turns, which no template is asked to render. Raises `RowFaultError`."""
    if not conversation.messages:
        raise RowFaultError("the conversation has no turns", "give it a question and an answer, or remove the row")


def _first(conversation: Conversation, count: int) -> Conversation:
    return replace(conversation, messages=conversation.messages[:count])


def _tools(conversation: Conversation) -> list[Any] | None:
    return list(conversation.tools) if conversation.tools else None
