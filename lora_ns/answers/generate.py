"""Text generation in left-padded batches; an answer does not depend on the rows that share its batch."""

from __future__ import annotations

import random
from collections import Counter
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
        was_training, draws = self.model.training, repetitions(prompts)
        self.model.eval()
        for batch in like_lengths(prompts, generation):
            of_batch = [prompts[index] for index in batch], generation, [draws[index] for index in batch]
            written = self.answer_batch(*of_batch)
            answers.update(zip(batch, written, strict=True))
        self.model.train(was_training)
        return [answers[index] for index in range(len(prompts))]

    def answer_batch(
        self, prompts: Sequence[list[int]], generation: Generation, draws: Sequence[int] = ()
    ) -> list[Answer]:
        """Generate the answers of one batch; arguments as in `write`."""
        written = self.write(prompts, generation, draws)
        return [self._read(*one) for one in zip(prompts, written, strict=True)]

    def write(self, prompts: Sequence[list[int]], generation: Generation, draws: Sequence[int] = ()) -> list[list[int]]:
        """Generate the token ids of the answers of one batch, each with its stop token.

        Args:
            prompts: token ids.
            generation: the generation settings.
            draws: for each prompt, the number of times that it has been asked before, see `repetitions`; by default,
                in this batch.
        """
        answers: dict[int, list[int]] = {}
        numbered = zip(prompts, draws or repetitions(prompts), strict=True)
        randoms = [row_random(generation.seed, *one) for one in numbered] if generation.do_sample else []
        for group in self._groups([len(prompt) for prompt in prompts], generation.max_new_tokens):
            own = [randoms[index] for index in group] if randoms else []
            answers.update(zip(group, self._write([prompts[index] for index in group], generation, own), strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _groups(self, lengths: Sequence[int], most: int) -> list[list[int]]:
        """Indices of prompts that can share a batch; a prompt that would change the others' positions is alone.

        With length-dependent RoPE, the longest row of a batch determines the frequencies of all its rows.
        """
        reach = short_reach(self.model.config)
        alone = [] if reach is None else [index for index, length in enumerate(lengths) if length + most > reach]
        together = [index for index in range(len(lengths)) if index not in alone]
        return [*([together] if together else []), *([index] for index in alone)]

    def _write(
        self, prompts: Sequence[list[int]], generation: Generation, randoms: Sequence[random.Random]
    ) -> list[list[int]]:
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
            own = [randoms[index] for index in unfinished] if randoms else []
            more = self._generate([prompts[index] + written[index] for index in unfinished], generation, steps, own)
            for index, tokens in zip(unfinished, more, strict=True):
                written[index] += tokens
        return written

    def _limit(self, prompt_tokens: int, most: int) -> int:
        return most if self.max_positions is None else max(0, min(most, self.max_positions - prompt_tokens))

    def _has_ended(self, written: Sequence[int]) -> bool:
        return bool(written) and written[-1] in self.stops

    def _generate(
        self, prompts: Sequence[list[int]], generation: Generation, steps: int, randoms: Sequence[random.Random]
    ) -> list[list[int]]:
        """The next tokens of each row: up to its stop token, at most `steps`."""
        import torch
        from transformers import GenerationConfig

        pad, width = self.tokenizer.pad_token_id, max(map(len, prompts))
        processors = _processors(generation, [width - len(prompt) for prompt in prompts], randoms)
        settings = GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,  # `_Draws` samples, for each row by itself
            eos_token_id=list(self.stops),
            pad_token_id=pad,
            use_cache=True,
        )
        device = next(self.model.parameters()).device
        inputs = _pad_left(prompts, width, pad)
        with torch.no_grad(), computing(device.type, self.dtype):
            output = self.model.generate(
                input_ids=inputs[0].to(device),
                attention_mask=inputs[1].to(device),
                generation_config=settings,
                logits_processor=processors,
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


def _processors(
    generation: Generation, padding: Sequence[int], randoms: Sequence[random.Random]
) -> LogitsProcessorList | None:
    """What changes the scores of the next token, in the order of transformers; None if nothing does.

    The repetition penalty ignores the padding before each row. Sampling ends with the choice of one token per row.
    """
    import torch
    import transformers

    found: list[Any] = []
    if generation.repetition_penalty != 1.0:
        penalty = float(generation.repetition_penalty)
        found.append(transformers.RepetitionPenaltyLogitsProcessor(penalty, torch.tensor(padding)))
    if randoms:
        if generation.temperature != 1.0:
            found.append(transformers.TemperatureLogitsWarper(float(generation.temperature)))
        if generation.top_k:
            found.append(transformers.TopKLogitsWarper(generation.top_k))
        if generation.top_p < 1.0:
            found.append(transformers.TopPLogitsWarper(float(generation.top_p)))
        found.append(_Draws(randoms))
    return transformers.LogitsProcessorList(found) if found else None


@dataclass(frozen=True)
class _Draws:
    """Samples the next token of each row with the random numbers of that row, and leaves only this token possible."""

    randoms: Sequence[random.Random]

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """Scores of shape (batch, vocabulary): 0 for the token that was drawn, minus infinity for all others."""
        import torch

        exact = scores.cpu() if scores.device.type == "mps" else scores  # which has no float64
        sums = exact.double().softmax(-1).cumsum(-1)
        points = torch.tensor([[one.random()] for one in self.randoms], dtype=sums.dtype, device=sums.device)
        drawn = torch.searchsorted(sums, points * sums[:, -1:], right=True).clamp(max=sums.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn.to(scores.device), 0.0)


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


def like_lengths(prompts: Sequence[list[int]], generation: Generation) -> list[list[int]]:
    """Batches of prompt indices, grouped by similar length, shortest first, as large as the settings allow."""
    most = generation.max_batch_tokens
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
        size = len(batches[-1]) + 1 if batches else 0
        width = len(prompts[index]) + generation.max_new_tokens  # the longest of the batch so far
        if not batches or size > generation.batch_size or (most is not None and size * width > most):
            batches.append([])
        batches[-1].append(index)
    return batches


def repetitions(prompts: Sequence[list[int]]) -> list[int]:
    """For each prompt, the number of times that it comes before: what is sampled for the same prompt differs."""
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for prompt in map(tuple, prompts):
        found.append(seen[prompt])
        seen[prompt] += 1
    return found


def row_random(seed: int, prompt: Sequence[int], draw: int) -> random.Random:
    """The random numbers of one row, whatever its place and whichever process samples it."""
    return random.Random(f"{seed} {draw} {' '.join(map(str, prompt))}")


def _pad_left(prompts: Sequence[list[int]], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask, both of shape (batch, width)."""
    import torch

    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
