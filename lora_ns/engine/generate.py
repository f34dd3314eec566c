"""Writing answers: batched, padded on the left, the same for any batch size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_ns.engine.model import computing
from lora_ns.recipe.generation import Generation

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """What the model wrote."""

    text: str
    finish_reason: str
    """`stop` if it ended its answer, `length` if it was cut off."""
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Writer:
    """A model that answers prompts."""

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    dtype: str
    max_positions: int | None = None

    def answer(self, prompts: Sequence[list[int]], generation: Generation) -> list[Answer]:
        """Answers in the order of the prompts, token ids of which none is empty."""
        answers: dict[int, Answer] = {}
        was_training = self.model.training
        self.model.eval()
        for number, batch in enumerate(like_lengths(prompts, generation.batch_size)):
            written = self.answer_batch([prompts[index] for index in batch], generation, number)
            answers.update(zip(batch, written, strict=True))
        self.model.train(was_training)
        return [answers[index] for index in range(len(prompts))]

    def answer_batch(self, prompts: Sequence[list[int]], generation: Generation, number: int) -> list[Answer]:
        """Answers to prompts that are answered together; what is drawn depends on no batch but this one."""
        import torch
        from transformers import GenerationConfig, set_seed

        if generation.do_sample:
            set_seed(_seed(generation.seed, number))
        width = max(map(len, prompts))
        kwargs = generation.to_kwargs()
        if self.max_positions:
            kwargs["max_new_tokens"] = max(1, min(generation.max_new_tokens, self.max_positions - width))
        pad = self.tokenizer.pad_token_id
        settings = GenerationConfig(**kwargs, eos_token_id=list(self.stops), pad_token_id=pad, use_cache=True)
        device = next(self.model.parameters()).device
        inputs = _pad_left(prompts, width, pad)
        with torch.no_grad(), computing(device.type, self.dtype):
            output = self.model.generate(
                input_ids=inputs[0].to(device), attention_mask=inputs[1].to(device), generation_config=settings
            )
        return [self._read(row[width:].tolist(), len(prompt)) for row, prompt in zip(output, prompts, strict=True)]

    def _read(self, ids: list[int], prompt_tokens: int) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in self.stops), None)
        written = ids if end is None else ids[:end]
        text = str(self.tokenizer.decode(written, skip_special_tokens=True))
        reason = "length" if end is None else "stop"
        return Answer(text, reason, prompt_tokens, len(written) + (end is not None))


def like_lengths(prompts: Sequence[list[int]], size: int) -> list[list[int]]:
    """The numbers of the prompts that are answered together: of like length, the shortest first."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _seed(seed: int, number: int) -> int:
    """The seed of a batch, so that it can be drawn without those before it, and in another process."""
    return random.Random(f"{seed} {number}").randrange(2**32)


def _pad_left(prompts: Sequence[list[int]], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (batch, width)."""
    import torch

    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
