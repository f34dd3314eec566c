"""LLaMA-Factory's files that do not configure a training run, recognised by their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_ns.importers.source import Source


@dataclass(frozen=True)
class Use:
    """A purpose of a file other than training."""

    what: str
    remedy: str
    why: str
    """Reason why lorans does not need the keys of such a file."""
    has_own_keys: bool = False
    """True if such files have other keys than training configurations."""


_MERGE = Use(
    "this configuration merges an adapter into its base (`export_dir`), and is not for training",
    "import the YAML of the training run; to merge a lorans run, use `lorans merge RUN --output DIR`",
    "it is for merging; see `lorans merge`",
)


_PREDICT = Use(
    "this configuration generates answers (`do_predict`), and is not for training",
    "import the YAML of the training run; to answer with a lorans run, use `lorans infer RUN --input-file ROWS.jsonl`",
    "it is for inference; see `lorans infer`",
)


_BENCHMARK = Use(
    "this configuration runs a benchmark (`task`), and is not for training",
    "import the YAML of the training run; for a benchmark, use `lorans merge RUN --output DIR`, and lm-eval on DIR",
    "it only applies to benchmarks",
)


_EVALUATE = Use(
    "this configuration measures the loss (`do_eval`), and is not for training",
    "import the YAML of the training run; to evaluate a lorans run, use `lorans eval RUN`",
    "it is for evaluation; see `lorans eval`",
)


_V1 = Use(
    "this configuration is for LLaMA-Factory's version 1, which lorans does not support",
    "write the recipe yourself, starting with `lorans init NAME`",
    "it belongs to LLaMA-Factory's version 1",
    has_own_keys=True,
)


_INFER = Use(
    "no `dataset`: this configuration is for inference",
    "import the YAML of the training run; to answer with a lorans run, use `lorans infer RUN`",
    "it is for inference; see `lorans infer`",
)


def other_use(source: Source) -> Use | None:
    """Return the purpose of a file that is not for training; None for a training configuration."""
    if source.has("export_dir"):
        return _MERGE
    if source.has("train_dataset") or source.has("model_class"):
        return _V1
    return None if _is_on(source, "do_train") else _untrained(source)


def _untrained(source: Source) -> Use | None:
    """Return the purpose of a file without `do_train`, which some training configurations lack."""
    if _is_on(source, "do_predict"):
        return _PREDICT
    if source.has("task") and not source.has("dataset"):
        return _BENCHMARK
    if _is_on(source, "do_eval") and not source.has("dataset"):
        return _EVALUATE
    return None if source.has("dataset") or source.has("stage") else _INFER


def _is_on(source: Source, key: str) -> bool:
    return str(source.get(key)).lower() in ("true", "yes", "on", "1")


def of_training(run: Callable[..., None]) -> Callable[..., None]:
    """Restrict a step or a rule to training configurations."""

    def restricted(draft: Any, *key: str) -> None:
        if other_use(draft.source) is None:
            run(draft, *key)

    return restricted
