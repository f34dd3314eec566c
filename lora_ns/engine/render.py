"""From an example to token ids and the tokens that are learned: one renderer for training, inference and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_ns.formats import Conversation, Labelled, Message, PromptCompletion, RawText, RowFaultError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not in the loss, as PyTorch's cross entropy has it."""

TrainOn = Literal["assistant", "last", "all"]


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it."""

    input_ids: list[int]
    trained: list[bool]
    """For each token, whether its prediction is in the loss."""

    @property
    def labels(self) -> list[int]:
        """The tokens that are to be predicted, and `IGNORED` for the others."""
        return [token if learn else IGNORED for token, learn in zip(self.input_ids, self.trained, strict=True)]


@dataclass(frozen=True)
class Renderer:
    """Renders examples with one tokenizer.

    Chat rows go through the tokenizer's own chat template, plain ones are the prompt as the tokenizer encodes it
    followed by the completion and the end token. Either way the tokens before an answer are those that inference feeds.
    Raw text is learned whole, with the end token after it.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    train_on: TrainOn = "assistant"

    def example(self, example: Conversation | PromptCompletion | RawText) -> Rendered:
        """A row to learn from.

        Raises:
            RowFaultError: if the template refuses the row, or does not render it the way it would at inference.
        """
        if isinstance(example, RawText):
            return self._raw(example)
        rendered = self._plain(example) if isinstance(example, PromptCompletion) else self._chat(example)
        if self.train_on == "all":
            return Rendered(rendered.input_ids, [True] * len(rendered.input_ids))
        return rendered

    def prompt(self, example: Conversation | PromptCompletion) -> list[int]:
        """The tokens that ask for the next answer. Raises `RowFaultError`."""
        if isinstance(example, PromptCompletion):
            return self._encode_plain(example.prompt)
        return self._encode(self._text(example.messages, add_generation_prompt=True))

    def _plain(self, example: PromptCompletion) -> Rendered:
        prompt = self._encode_plain(example.prompt)
        whole = self._encode_plain(example.prompt + example.completion)
        # Where a token reaches over the boundary, inference cannot know it: then both sides are encoded alone.
        whole_fits = whole[: len(prompt)] == prompt
        completion = whole[len(prompt) :] if whole_fits else self._encode(example.completion)
        completion = self._ended(completion)
        return Rendered([*prompt, *completion], [False] * len(prompt) + [True] * len(completion))

    def _raw(self, example: RawText) -> Rendered:
        ids = self._ended(self._encode_plain(example.text))
        return Rendered(ids, [True] * len(ids))

    def _ended(self, ids: list[int]) -> list[int]:
        """Tokens with the end token after them."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise RowFaultError(
                "[EOS001] the tokenizer has no end token, so the model would never stop", "choose another base"
            )
        return ids if ids[-1:] == [end] else [*ids, end]

    def _chat(self, example: Conversation) -> Rendered:
        text = self._text(example.messages)
        spans = self._answer_spans(example.messages, text)
        ids, tokens = self._encode_with_spans(text, spans)
        trained = [False] * len(ids)
        for start, stop in tokens[-1:] if self.train_on == "last" else tokens:
            end = self._after_stop(ids, start, stop)
            trained[start:end] = [True] * (end - start)
        return Rendered(ids, trained)

    def _answer_spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where in the text the assistant's turns stand, each with its end token."""
        spans = []
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._text(messages[:number], add_generation_prompt=True)
            up_to = text if number + 1 == len(messages) else self._text(messages[: number + 1])
            if not text.startswith(before) or not text.startswith(up_to):
                raise RowFaultError(
                    f"[TPL002] the chat template renders turn {number} another way once more turns follow",
                    "such a template needs one row for each assistant turn",
                )
            spans.append((len(before), len(up_to)))
        return spans

    def _encode_with_spans(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text, and the spans in tokens.

        The text is encoded whole if the tokens of each part before a boundary come out the same alone, as inference
        encodes it; otherwise, where a token would reach over a boundary, it is encoded in pieces.
        """
        whole = self._encode(text)
        parts = [
            (self._encode(text[:start]), whole if stop == len(text) else self._encode(text[:stop]))
            for start, stop in spans
        ]
        if all(whole[: len(part)] == part for pair in parts for part in pair):
            return whole, [(len(before), len(up_to)) for before, up_to in parts]
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

    def _after_stop(self, ids: Sequence[int], start: int, stop: int) -> int:
        """Where an answer's end token is behind us; the line break after it is the template's and not learned."""
        for index in range(stop - 1, start - 1, -1):
            if ids[index] in self.stops:
                return index + 1
        raise RowFaultError(
            "[EOS001] the chat template ends an answer without a stop token, so the model would never stop",
            "choose a base whose template ends its turns",
        )

    def _text(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        import jinja2

        if self.tokenizer.chat_template is None:
            raise RowFaultError(
                "[TPL001] the base has no chat template, and the rows are conversations",
                "take its instruct edition, or write `prompt_template` and `completion_template`",
            )
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            raise RowFaultError(f"[TPL003] the chat template refuses the row: {error}", "change its turns") from None
        return str(text)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _encode_plain(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text)["input_ids"])
        if ids and ids[-1] in self.stops and not text.endswith(str(self.tokenizer.eos_token)):
            return ids[:-1]  # a tokenizer that ends every text by itself
        return ids


def encode_labelled(
    tokenizer: PreTrainedTokenizerBase, example: Labelled, limit: int | None = None
) -> dict[str, list[int]]:
    """The inputs of a classifier for a text or a pair, not padded, and cut to `limit` tokens if one is given."""
    encoded = tokenizer(example.text, example.text_pair, truncation=limit is not None, max_length=limit)
    return {key: list(value) for key, value in encoded.items()}
