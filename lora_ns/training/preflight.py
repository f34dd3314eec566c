"""The pre-flight of rewards: completions of the untrained model are scored before the first step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lora_ns.data.encode_prompts import completion_of
from lora_ns.data.interval import wilson_interval
from lora_ns.errors import Problem, RunError
from lora_ns.files.disk import write_atomic
from lora_ns.model.load import computing
from lora_ns.objectives.generation import GenerationObjective
from lora_ns.objectives.rewarded import RewardedObjective
from lora_ns.rewards import Completion
from lora_ns.rewards.checks import Fault, Judge, Signal, check_with_answers, doubts, measure, reasons_against
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.training.rewards import Reward

if TYPE_CHECKING:
    import datasets


def preflight(
    run: RunDir, manifest: Manifest, trainer: Any, rows: datasets.Dataset, observer: Observer, is_forced: bool
) -> None:
    """Check the rewards of a run before its first step, and store what was found.

    Args:
        run: the run.
        manifest: its manifest.
        trainer: the trainer, whose model is untrained.
        rows: training rows.
        observer: receives the summary and the warnings.
        is_forced: True if the run goes on even if it cannot learn.

    Raises:
        RunError: with the reasons why the run cannot learn, and what to change.
    """
    objective = manifest.recipe.objective
    assert isinstance(objective, RewardedObjective), "only these have rewards"
    if not objective.preflight_prompts:
        return
    observer.stage("scoring completions before training")
    chosen = rows.select(range(0, len(rows), max(1, len(rows) // objective.preflight_prompts)))
    chosen = chosen.select(range(min(objective.preflight_prompts, len(chosen))))
    faults = answer_faults(trainer.reward_funcs, [completion_of(row["row"], "") for row in chosen])
    problems = [
        (Problem("", fault.what, fault.remedy, fault.code, key=reward.key), fault.is_error) for reward, fault in faults
    ]
    signal = sample(manifest, trainer, chosen, objective.group_size)
    write_atomic(run.preflight, json.dumps(asdict(signal), ensure_ascii=False, indent=2) + "\n")
    observer.stage(summary(signal))
    for text in doubts(signal):
        observer.warn(text)
    best = sum(max(0.0, reward.weight) * reward.highest for reward in objective.rewards)
    problems += [
        (Problem("", what, remedy, key=objective.key("rewards")), True)
        for what, remedy in reasons_against(signal, best)
    ]
    refused = [problem for problem, is_error in problems if is_error]
    for problem, is_error in problems:
        if is_forced or not is_error:
            observer.warn(str(problem))
    if refused and not is_forced:
        raise RunError([*refused, Problem("", "nothing would be learned", "`lorans train --force` trains anyway")])


def summary(signal: Signal) -> str:
    """The rewards before training in a line."""
    if signal.reward is None:
        return f"{signal.prompts} prompts x {signal.completions} completions: no reward"
    low, high = wilson_interval(signal.share, signal.prompts)
    return (
        f"{signal.prompts} prompts x {signal.completions} completions: reward {signal.reward:.3g} "
        f"(std {signal.reward_std:.3g}), differs for {signal.share:.0%} of prompts (95% interval {low:.0%} to "
        f"{high:.0%}), about {signal.per_step:.1f} per step; {len(signal.solved)} always and {len(signal.unsolved)} "
        f"never solved; {signal.truncated:.0%} truncated, {signal.empty:.0%} empty"
    )


def answer_faults(rewards: Sequence[Reward], rows: Sequence[Completion]) -> Iterator[tuple[Reward, Fault]]:
    """Check reward functions with the reference answers of rows, and yield their faults."""
    for reward in rewards:
        judge = Judge(reward.__name__, reward.scores, reward.function.verifies, reward.function.highest)
        yield from ((reward, fault) for fault in check_with_answers(judge, rows))


def sample(manifest: Manifest, trainer: Any, rows: datasets.Dataset, size: int) -> Signal:
    """Complete the prompts of rows as in training, `size` times each, and score the completions."""
    from transformers import set_seed

    objective, args = manifest.recipe.objective, trainer.args
    set_seed(manifest.seed)
    written = complete(manifest, trainer, [row["input_ids"] for row in rows for _ in range(size)])
    texts = trainer.processing_class.batch_decode(written, skip_special_tokens=True)
    groups = [
        [
            completion_of(row["row"], texts[place], written[place])
            for place in range(number * size, number * size + size)
        ]
        for number, row in enumerate(rows)
    ]
    scores = [[reward.scores(group) for group in groups] for reward in trainer.reward_funcs]
    ends = {*manifest.stop_token_ids, trainer.processing_class.pad_token_id}
    per_step = manifest.plan.global_batch_size.value // objective.group_size
    functions = objective.reward_functions
    return measure(
        groups,
        scores,
        [reward.__name__ for reward in trainer.reward_funcs],
        args.reward_weights,
        [not ids or ids[-1] not in ends for ids in written],
        per_step,
        [function.highest if function.verifies else None for function in functions],
    )


def complete(manifest: Manifest, trainer: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Tokens that the model generates after each prompt, up to its stop token, with the trainer's settings."""
    import torch
    from transformers import GenerationConfig

    objective = manifest.recipe.objective
    assert isinstance(objective, GenerationObjective), "only these have a sampling"
    settings = GenerationConfig(
        **objective.sampling,
        do_sample=True,
        eos_token_id=list(manifest.stop_token_ids),
        pad_token_id=trainer.processing_class.pad_token_id,
        disable_compile=True,
    )
    model, pad = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class.pad_token_id
    device, size = next(model.parameters()).device, manifest.plan.per_device_eval_batch_size.value
    was_training, stops, found = model.training, set(manifest.stop_token_ids), []
    model.eval()
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch], device=device)
        with torch.no_grad(), computing(device.type, manifest.plan.dtype.value):
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        found += [_up_to(row[width:].tolist(), stops) for row in written]
    model.train(was_training)
    return found


def _up_to(ids: list[int], stops: set[int]) -> list[int]:
    """Tokens up to the first stop token, which is kept."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]
