"""The metrics of a finished training: of its evaluations before and after, and of a constant answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lora_ns.objectives.baselines import Baseline
from lora_ns.objectives.label_loss import labels_that_count
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics
from lora_ns.run.observer import Observer

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer


def final_metrics(run: RunDir, best: int | None) -> dict[str, Any]:
    """Metrics of the evaluation before training, of the evaluation of the saved weights, and of the final summary.

    Args:
        run: the run.
        best: step of the weights that are saved, None for the last one.
    """
    rows = read_metrics(run.metrics).rows
    metrics: dict[str, Any] = {}
    evaluations = [row for row in rows if "eval_loss" in row]
    kept_ones = [row for row in evaluations if row["step"] and best in {None, row["step"]}]
    skipped = (
        *("_runtime", "_per_second", "num_tokens", "_entropy", "loss_low", "loss_high"),
        *("min_length", "max_length", "_terminated_length"),
    )
    for prefix, row in (("before/", evaluations[:1]), ("", kept_ones[-1:])):
        if row and (not prefix or row[0]["step"] == 0):
            kept = {
                key: value for key, value in row[0].items() if key.startswith("eval_") and not key.endswith(skipped)
            }
            metrics |= {f"{prefix}{key}": value for key, value in kept.items()}
    summary = [row for row in rows if "train_runtime" in row][-1:]
    if summary:
        metrics |= {key: summary[0][key] for key in ("train_loss", "train_runtime", "padding") if key in summary[0]}
    return metrics


def measured_baseline(
    baseline: Baseline, eval_rows: datasets.Dataset | None, metrics: Mapping[str, Any], observer: Observer
) -> dict[str, float]:
    """Metrics of a constant answer on the evaluation rows; warns if the model is no better."""
    if eval_rows is None:
        return {}
    reached = baseline.measure(labels_that_count(eval_rows))
    measured = {name: metrics[f"eval_{name}"] for name in reached if f"eval_{name}" in metrics}
    for text in baseline.unbeaten(measured, reached):
        observer.warn(text)
    return {f"baseline/eval_{name}": value for name, value in reached.items()}


def warn_of_unmeasured(run: RunDir, trainer: Trainer, observer: Observer, recipe: Recipe) -> None:
    """Warn if the last evaluation did not measure the weights that are saved."""
    if trainer.args.eval_strategy == "no" or recipe.training.load_best_model_at_end:
        return
    measured = [row["step"] for row in read_metrics(run.metrics).rows if "eval_loss" in row and row["step"]]
    steps = trainer.state.global_step
    if not measured:
        observer.warn(f"no evaluation measured the model in {steps} steps (lower `eval_steps`, or `extra.eval_delay`)")
    elif measured[-1] < steps:
        observer.warn(f"the last evaluation measured the model after step {measured[-1]} of {steps}")
