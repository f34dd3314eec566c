"""What LLaMA-Factory's files are for that are no training, by the keys that show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_ns.importers.source import Source


@dataclass(frozen=True)
class Use:
    """Something else than a training."""

    what: str
    remedy: str
    why: str
    """Why a key of it has no meaning here."""
    has_own_keys: bool = False
    """Whether its keys are not those of a training."""


_MERGE = Use(
    "this merges an adapter into its base (`export_dir`), and trains nothing",
    "`lorans merge RUN --output DIR` does so with a run of lorans; import the YAML that is trained with",
    "it is of merging: `lorans merge`",
)


_PREDICT = Use(
    "this writes answers to rows (`do_predict`), and trains nothing",
    "`lorans infer RUN --input-file ROWS.jsonl` does so with a run of lorans; import the YAML that is trained with",
    "it is of answering: `lorans infer`",
)


_BENCHMARK = Use(
    "this scores a benchmark (`task`), and trains nothing",
    "`lorans merge RUN --output DIR`, and lm-eval on that folder; import the YAML that is trained with",
    "it is of a benchmark",
)


_EVALUATE = Use(
    "this measures the loss (`do_eval`), and trains nothing",
    "`lorans eval RUN` does so with a run of lorans; import the YAML that is trained with",
    "it is of evaluating: `lorans eval`",
)


_V1 = Use(
    "this is of LLaMA-Factory's version 1, which lorans does not read",
    "write the recipe yourself: `lorans init NAME`",
    "it is of LLaMA-Factory's version 1",
    has_own_keys=True,
)


_INFER = Use(
    "this is for answering: it has no `dataset` to train on",
    "`lorans infer RUN` answers with a run of lorans; import the YAML that is trained with",
    "it is of answering: `lorans infer`",
)


def other_use(source: Source) -> Use | None:
    """What a file is for if it is no training."""
    if source.has("export_dir"):
        return _MERGE
    if source.has("train_dataset") or source.has("model_class"):
        return _V1
    return None if _is_on(source, "do_train") else _untrained(source)


def _untrained(source: Source) -> Use | None:
    """What a file is for that does not say `do_train`, which some forget."""
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
    """A step or a rule that leaves files of another use alone."""

    def runs(draft: Any, *key: str) -> None:
        if other_use(draft.source) is None:
            run(draft, *key)

    return runs
