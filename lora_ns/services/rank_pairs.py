"""A level of `lorans validate`: the base itself ranks the preference pairs of a recipe, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_ns.answers.loss import sequence_losses
from lora_ns.data.base_ranking import BaseRanking, LogProbability, answer_pairs, rank, sample
from lora_ns.data.encoded import Encoded
from lora_ns.data.loss_mask import Rendered
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.machine.hardware import Machine
from lora_ns.model.load import Loading, load_base
from lora_ns.model.tokenizer import added_tokens
from lora_ns.run.observer import Observer
from lora_ns.services.validate import Prepared, plan_of

MOST_POSITIONS = 2048
"""Positions of a batch, padding included; a longer sequence is a batch of its own."""


def rank_pairs(prepared: Prepared, machine: Machine, observer: Observer) -> BaseRanking | None:
    """Rank a sample of the training pairs by the base's log-probabilities; None for rows without such pairs.

    Raises:
        LoransError: if the base cannot be loaded, or there is not enough memory.
    """
    objective, tokenizer = prepared.settled.recipe.objective, prepared.rows.renderer.tokenizer
    every = [] if objective.scores_whole else answer_pairs(prepared.train.sequences)
    if not every:
        return None
    pairs, plan = sample(every), plan_of(prepared, machine)
    answers = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    losses: dict[int, LogProbability] = {}
    message = f"out of memory while the base ranks pairs of up to {prepared.train.tally.longest:,} tokens"
    with telling_memory_errors(lambda: message, "free memory, or leave out `--model`"):
        observer.stage("loading the base")
        model = load_base(prepared.base, _loading(prepared, plan.dtype.value, plan.device.value))
        model.eval()
        observer.stage("ranking pairs by the base")
        for places in _batches(answers):
            rows = [_labelled(answers[place]) for place in places]
            found = sequence_losses(model, rows, int(tokenizer.pad_token_id or 0), plan.dtype.value)
            losses |= {
                place: LogProbability(-loss, tokens) for place, (loss, tokens) in zip(places, found, strict=True)
            }
            observer.rows(len(losses), len(answers))
    ranked = [(losses[place], losses[place + 1]) for place in range(0, len(answers), 2)]
    return rank(prepared.rows.sources.train.name, pairs, len(every), ranked)


def _loading(prepared: Prepared, dtype: str, device: str) -> Loading:
    """The arguments with which a training would load the base."""
    recipe = prepared.settled.recipe
    return Loading(
        task_type=recipe.task_type,
        dtype=dtype,
        device=device,
        quantization=recipe.quantization,
        trust_remote_code=recipe.model.trust_remote_code,
        added_tokens=added_tokens(prepared.rows.renderer.tokenizer, recipe.model),
    )


def _labelled(answer: Encoded) -> tuple[list[int], list[int]]:
    return answer.input_ids, Rendered(answer.input_ids, answer.trained).labels


def _batches(answers: Sequence[Encoded]) -> Iterator[list[int]]:
    """Yield places of answers of similar length."""
    batch: list[int] = []
    for place in sorted(range(len(answers)), key=lambda place: answers[place].length):
        if batch and (len(batch) + 1) * answers[place].length > MOST_POSITIONS:
            yield batch
            batch = []
        batch.append(place)
    yield batch
