"""Evaluation of a run that reinforces completions: the mean reward and the share of right completions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from lora_ns.answers.opened import Trained, format_of
from lora_ns.data.encode import encode, refusals
from lora_ns.data.encoded import as_dataset
from lora_ns.data.interval import wilson_interval
from lora_ns.data.render import make_renderer
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.errors import DataError
from lora_ns.files.temporary import temporary_folder
from lora_ns.recipe.distributed import OneProcess
from lora_ns.rewards.checks import Signal
from lora_ns.services.evaluate_suites import ADAPTER_NAME, Answered
from lora_ns.services.measured import Measured
from lora_ns.statistics import estimate, mean
from lora_ns.suites import Gold
from lora_ns.suites.rewards import RewardSuite
from lora_ns.training.preflight import sample
from lora_ns.training.prepared import folders_of
from lora_ns.training.rewards import open_rewards
from lora_ns.training.trainer import make_trainer


def evaluate_rewards(trained: Trained, rows: Sequence[Row]) -> Measured:
    """Complete the prompts of rows with the sampling of the run, and score them with its rewards.

    Raises:
        DataError: names the rows that cannot be read, or are too long.
        LoransError: if a reward function is missing or fails.
    """
    manifest = trained.manifest
    alone = manifest.recipe.model_copy(update={"distributed": OneProcess()})
    objective = alone.objective
    rewards = open_rewards(objective, [trained.run.code, *folders_of(manifest)])
    renderer = make_renderer(trained.tokenizer, manifest.stop_token_ids, objective.rendering, trained.vocabulary())
    source = Source(rows[0].where, rows)
    encoding = encode(source, format_of(manifest), renderer, objective, ())
    if problems := refusals(source, encoding, teaches=False):
        raise DataError(problems)
    prompts = as_dataset(encoding.sequences)
    trained.model.generation_config.eos_token_id = list(manifest.stop_token_ids)
    plan = manifest.plan.model_copy(update={"deepspeed": None})
    with temporary_folder() as folder:
        data = (prompts, prompts)
        trainer = make_trainer(
            alone, plan, Path(folder), trained.model, trained.tokenizer, data, [], False, rewards=rewards
        )
        found = sample(manifest, trainer, prompts, objective.eval_group_size)
    golds = [Gold(prompt.where, None) for prompt in encoding.sequences]
    answered = [Answered(RewardSuite(), golds, {ADAPTER_NAME: found.means})] if len(found.means) == len(golds) else []
    return Measured(_metrics(found), encoding.tally.truncated, tuple(answered))


def _metrics(found: Signal) -> dict[str, float]:
    """The metrics of completions, those of whole rewards with an interval over the prompts."""
    metrics: dict[str, float] = {}
    if found.means:
        ends = estimate(mean(found.means)).interval
        metrics |= {"reward": fmean(found.means)}
        if math.isfinite(ends.low) and math.isfinite(ends.high):
            metrics |= {"reward from": ends.low, "reward to": ends.high}
    if found.passed is not None:
        low, high = wilson_interval(found.passed, found.prompts)
        metrics |= {"pass@1": found.passed, "pass@1 from": low, "pass@1 to": high}
    metrics |= {f"rewards/{report.name}/mean": report.mean for report in found.rewards if report.mean is not None}
    return {**metrics, "completions/clipped_ratio": found.truncated, "completions/empty_ratio": found.empty}
