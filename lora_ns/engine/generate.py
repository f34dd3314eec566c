"""Writing answers: batched, padded on the left, the same for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def answer(
        self, prompts: Sequence[list[int]], generation: Generation, on_answers: Callable[[int], None] = lambda _: None
    ) -> list[Answer]:
        """Answers in the order of the prompts; prompts of like length are answered together.

        Args:
            prompts: token ids, none of them empty.
            generation: how to write.
            on_answers: told the number of answers after each batch.
        """
        from transformers import set_seed

        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, Answer] = {}
        was_training = self.model.training
        self.model.eval()
        if generation.do_sample:
            set_seed(generation.seed)
        for start in range(0, len(order), generation.batch_size):
            batch = order[start : start + generation.batch_size]
            written = self._answer_batch([prompts[index] for index in batch], generation)
            answers.update(zip(batch, written, strict=True))
            on_answers(len(answers))
        self.model.train(was_training)
        return [answers[index] for index in range(len(prompts))]

    def _answer_batch(self, prompts: Sequence[list[int]], generation: Generation) -> list[Answer]:
        import torch
        from transformers import GenerationConfig

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


def _pad_left(prompts: Sequence[list[int]], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (batch, width)."""
    import torch

    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
