"""Training on generated completions: TRL's trainers for prompts that are already tokenised, and can be resumed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.objectives.base import Counted
from lora_ns.objectives.pair_trainer import Referring, counting_rows

SAMPLES = 8
"""Completions of an evaluation that are kept to be read."""

_WEIGHT = "weight of "


@dataclass(frozen=True)
class Sample:
    """A completion of an evaluation."""

    prompt: str
    completion: str
    rewards: Mapping[str, float | None]


class StoringTrainer:
    """A part of trainers that learn from completions, which are stored in checkpoints until they are learned from."""

    model: Any
    state: Any
    args: Any
    accelerator: Any
    _step: int
    _buffered_inputs: list[dict[str, Any]] | None
    _kept: list[dict[str, Any]] | None = None

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Count on from the step of a checkpoint, so that completions are generated in the same steps.

        A part of the completions of a step stays as it is.
        """
        if isinstance(inputs, Mapping):
            return inputs
        if self.model.training and not self._step and self.state.global_step:
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
            self._buffered_inputs = self._kept
        return super()._prepare_inputs(inputs)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Also store the completions that later steps learn from."""
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        every = getattr(self.args, "steps_per_generation", 1) * getattr(self, "num_iterations", 1)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self._step % every and self._buffered_inputs:
            _store(self._buffered_inputs, folder / _name(self.args.process_index))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also load the completions of a checkpoint."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        file = Path(checkpoint) / _name(self.args.process_index) if checkpoint else None
        self._kept = _load(file, self.accelerator.device) if file and file.is_file() else None


@functools.cache
def prompt_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer that generates completions of tokenised prompts.

    It takes rows of `EncodedPrompt`, has an order of rows that depends on the epoch alone, and stores the completions
    of a checkpoint that are not learned from yet, so that a resumed run goes on as if it had not been interrupted.
    """

    class PromptTrainer(StoringTrainer, Referring, counting_rows(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `prompt_trainer_class`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Given a PEFT model and a `beta`, TRL adds a frozen copy of the adapter, which would be saved with it.
            arguments = kwargs["args"]
            beta, arguments.beta = getattr(arguments, "beta", None), 0.0
            super().__init__(*args, **kwargs)
            if beta is not None:
                arguments.beta = self.beta = beta
            self._prompt_ids: list[list[int]] = []

        def count_of(self, inputs: Any) -> Any:
            """The number of completions."""
            import torch

            return torch.tensor(len(inputs))

        def batch_means(self) -> dict[str, float]:
            """TRL's metrics of the batch with their weights: 0 for one that no completion of the batch has."""
            return _weighted(super().batch_means())

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Log the means over those completions that have a metric."""
            super().log_means({**_unweighted(means), "loss": means["loss"]}, logs)

        def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            """The tokens of the prompts of a batch, as the renderer made them."""
            assert len(prompts) == len(self._prompt_ids), "the prompts are those of the batch"
            return [list(ids) for ids in self._prompt_ids], None, {}

        def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, Any]]) -> Any:
            """Complete the prompts of a batch; TRL sees each as a text."""
            self._prompt_ids = [list(row["input_ids"]) for row in inputs]
            return super()._generate_and_score_completions([{"prompt": "", **row} for row in inputs])

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            """TRL's order of prompts in the first epoch, and another one in each later epoch."""
            return epoch_sampler(super()._get_train_sampler(dataset))

    return PromptTrainer


@functools.cache
def rewarded_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer that rewards completions. See `prompt_trainer_class`."""

    class RewardedTrainer(prompt_trainer_class(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `rewarded_trainer_class`; `samples` has completions of the last evaluation."""

        samples: tuple[Sample, ...] = ()

        def part_of(self, inputs: Any, share: float) -> Any:
            """A part of a batch. TRL divides some losses by the tokens of all, and again by what divides a mean."""
            items = inputs.get("num_items_in_batch")
            return inputs if items is None else {**inputs, "num_items_in_batch": items * share}

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            """Forget the samples of the evaluation before."""
            self.samples = ()
            return super().evaluate(*args, **kwargs)

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            """TRL's rewards of all processes; in an evaluation, keep the first completions of this one."""
            found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            if not self.model.training and len(self.samples) < SAMPLES:
                first = self.accelerator.process_index * len(prompts)
                own = found[first : first + len(prompts)].tolist()
                texts = self.processing_class.batch_decode(self._prompt_ids)
                rows = list(zip(texts, completions, own, strict=True))[: SAMPLES - len(self.samples)]
                self.samples += tuple(Sample(text, written, self._named(scores)) for text, written, scores in rows)
            return found

        def _named(self, scores: Sequence[float]) -> dict[str, float | None]:
            named = zip(self.reward_func_names, scores, strict=True)
            return {name: None if math.isnan(score) else score for name, score in named}

    return RewardedTrainer


def _weighted(means: Mapping[str, float]) -> dict[str, float]:
    """Means of a batch, 0 for those that are NaN, and their weights, 1 or 0."""
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    weights = {f"{_WEIGHT}{name}": float(name in known) for name in means}
    return {**{name: known.get(name, 0.0) for name in means}, **weights}


def _unweighted(means: Mapping[str, float]) -> dict[str, float]:
    """Means over all batches, from the means of `_weighted`."""
    weights = {name: means[_WEIGHT + name] for name in means if _WEIGHT + name in means}
    return {name: means[name] / weight if weight else math.nan for name, weight in weights.items()}


def epoch_sampler(sampler: Any) -> Any:
    """A sampler that repeats prompts in TRL's order, and knows that of each epoch.

    TRL's own sampler draws one order after another, so a run that is resumed in its second epoch would get the order of
    the first one.
    """
    if not sampler.shuffle:
        return sampler
    return _sampler_class()(
        sampler.data_source, sampler.mini_repeat_count, sampler.batch_size, sampler.repeat_count, True, sampler.seed
    )


@functools.cache
def _sampler_class() -> Any:
    import torch
    from trl.trainer.utils import RepeatSampler

    class EpochSampler(RepeatSampler):  # type: ignore[misc, unused-ignore]
        """See `epoch_sampler`."""

        def set_epoch(self, epoch: int) -> None:
            """Draw on from the orders of the epochs before."""
            self.generator.manual_seed(self.seed or 0)
            for _ in range(epoch):
                torch.randperm(self.num_samples, generator=self.generator)

    return EpochSampler


def _name(process: int) -> str:
    return f"completions-{process}.safetensors"


def _store(batches: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Store the tensors of batches, and their other values as JSON."""
    import json

    import torch
    from safetensors.torch import save_file

    tensors = {
        f"{number}/{name}": value.contiguous().clone()
        for number, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    others = [
        {name: value for name, value in batch.items() if not isinstance(value, torch.Tensor)} for batch in batches
    ]
    save_file(tensors, file, metadata={"batches": json.dumps(others)})


def _load(file: Path, device: Any) -> list[dict[str, Any]]:
    """Load batches that `_store` wrote."""
    import json

    from safetensors import safe_open

    with safe_open(file, framework="pt", device=str(device)) as stored:
        batches: list[dict[str, Any]] = json.loads(stored.metadata()["batches"])
        for key in stored.keys():  # noqa: SIM118 -- not a mapping
            number, _, name = key.partition("/")
            batches[int(number)][name] = stored.get_tensor(key)
    return batches
