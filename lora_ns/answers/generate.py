"""Text generation in left-padded batches; greedy answers do not depend on the batch size."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.model.load import computing
from lora_ns.recipe.generation import Generation

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

FOLLOWING_LENGTH = ("dynamic", "longrope")
"""RoPE types whose frequencies depend on the longest row of a batch."""


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    text: str
    finish_reason: str
    """`stop` if the model ended its answer, `length` if the answer was cut off."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer, ready to generate answers to prompts."""

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    dtype: str
    max_positions: int | None = None

    def answer(self, prompts: Sequence[list[int]], generation: Generation) -> list[Answer]:
        """Generate an answer to each prompt, in order. Prompts are token ids, none of them empty."""
        answers: dict[int, Answer] = {}
        was_training = self.model.training
        self.model.eval()
        for number, batch in enumerate(like_lengths(prompts, generation.batch_size)):
            written = self.answer_batch([prompts[index] for index in batch], generation, number)
            answers.update(zip(batch, written, strict=True))
        self.model.train(was_training)
        return [answers[index] for index in range(len(prompts))]

    def answer_batch(self, prompts: Sequence[list[int]], generation: Generation, number: int) -> list[Answer]:
        """Generate the answers of one batch. Sampling depends on this batch alone."""
        from transformers import set_seed

        if generation.do_sample:
            set_seed(_seed(generation.seed, number))
        return [self._read(*one) for one in zip(prompts, self.write(prompts, generation), strict=True)]

    def write(self, prompts: Sequence[list[int]], generation: Generation) -> list[list[int]]:
        """Generate the token ids of the answers of one batch, each with its stop token."""
        answers: dict[int, list[int]] = {}
        for group in self._groups([len(prompt) for prompt in prompts], generation.max_new_tokens):
            answers.update(zip(group, self._write([prompts[index] for index in group], generation), strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _groups(self, lengths: Sequence[int], most: int) -> list[list[int]]:
        """Indices of prompts that can share a batch; a prompt that would change the others' positions is alone.

        With length-dependent RoPE, the longest row of a batch determines the frequencies of all its rows.
        """
        reach = short_reach(self.model.config)
        alone = [] if reach is None else [index for index, length in enumerate(lengths) if length + most > reach]
        together = [index for index in range(len(lengths)) if index not in alone]
        return [*([together] if together else []), *([index] for index in alone)]

    def _write(self, prompts: Sequence[list[int]], generation: Generation) -> list[list[int]]:
        """Token ids generated after each prompt, up to a stop token or the last position.

        The rows of a batch are generated together until the longest one runs out of positions. The others then
        continue without it, so that each answer is as long as it would be in a batch of one.
        """
        written: list[list[int]] = [[] for _ in prompts]
        limits = [self._limit(len(prompt), generation.max_new_tokens) for prompt in prompts]
        while unfinished := [
            index for index, row in enumerate(written) if len(row) < limits[index] and not self._has_ended(row)
        ]:
            steps = min(limits[index] - len(written[index]) for index in unfinished)
            more = self._generate([prompts[index] + written[index] for index in unfinished], generation, steps)
            for index, tokens in zip(unfinished, more, strict=True):
                written[index] += tokens
        return written

    def _limit(self, prompt_tokens: int, most: int) -> int:
        return most if self.max_positions is None else max(0, min(most, self.max_positions - prompt_tokens))

    def _has_ended(self, written: Sequence[int]) -> bool:
        return bool(written) and written[-1] in self.stops

    def _generate(self, prompts: Sequence[list[int]], generation: Generation, steps: int) -> list[list[int]]:
        """The next tokens of each row: up to its stop token, at most `steps`."""
        import torch
        from transformers import GenerationConfig

        pad, width = self.tokenizer.pad_token_id, max(map(len, prompts))
        kwargs = generation.to_kwargs() | {"max_new_tokens": steps}
        penalty = _without_padding(kwargs.pop("repetition_penalty"), [width - len(prompt) for prompt in prompts])
        settings = GenerationConfig(**kwargs, eos_token_id=list(self.stops), pad_token_id=pad, use_cache=True)
        device = next(self.model.parameters()).device
        inputs = _pad_left(prompts, width, pad)
        with torch.no_grad(), computing(device.type, self.dtype):
            output = self.model.generate(
                input_ids=inputs[0].to(device),
                attention_mask=inputs[1].to(device),
                generation_config=settings,
                logits_processor=penalty,
            )
        return [up_to_stop(row[width:].tolist(), self.stops) for row in output]

    def _read(self, prompt: Sequence[int], written: Sequence[int]) -> Answer:
        text = written_text(self.tokenizer, written, self.stops)
        return Answer(text, "stop" if self._has_ended(written) else "length", len(prompt), len(written))


def up_to_stop(ids: list[int], stops: Collection[int]) -> list[int]:
    """The tokens up to and including the first stop token; all of them if there is none."""
    end = next((index for index, token in enumerate(ids) if token in stops), None)
    return ids if end is None else ids[: end + 1]


def written_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Collection[int]) -> str:
    """The text of an answer, without stop and pad tokens. Other special tokens stay."""
    left_out = {*stops, tokenizer.pad_token_id}
    return str(tokenizer.decode([token for token in ids if token not in left_out]))


def _without_padding(penalty: float, padding: Sequence[int]) -> LogitsProcessorList | None:
    """A repetition penalty that ignores the padding before each row; None for a penalty of 1."""
    import torch
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    if penalty == 1.0:
        return None
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(float(penalty), torch.tensor(padding))])


def short_reach(config: Any) -> int | None:
    """Longest batch, in tokens, up to which RoPE frequencies are fixed; None if they never depend on the length."""
    from transformers import PretrainedConfig

    if not isinstance(config, PretrainedConfig):
        return None
    text = config.get_text_config()
    found = getattr(text, "rope_parameters", None) or {}
    kinds = [found, *(value for value in found.values() if isinstance(value, dict))]
    lengths = [
        kind.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", None) or 0
        for kind in kinds
        if kind.get("rope_type") in FOLLOWING_LENGTH
    ]
    return min(lengths, default=None)


def like_lengths(prompts: Sequence[list[int]], size: int) -> list[list[int]]:
    """Batches of prompt indices, grouped by similar length, shortest first."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _seed(seed: int, number: int) -> int:
    """The seed of one batch, so that any process can sample it independently of the other batches."""
    return random.Random(f"{seed} {number}").randrange(2**32)


def _pad_left(prompts: Sequence[list[int]], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask, both of shape (batch, width)."""
    import torch

    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
