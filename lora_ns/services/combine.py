"""Several runs on one base, combined into a LoRA by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import loading_of, open_run
from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.exports.factors import Factors, whole_modules
from lora_ns.exports.plain import write
from lora_ns.merging.skeleton import without_weights
from lora_ns.model.load import load_base
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.export import (
    check_convertible,
    describe_base,
    has_skeleton,
    load_layers,
    skeleton_of,
    updates_of,
)

if TYPE_CHECKING:
    from peft import PeftModel

Method = Literal[
    "cat",
    "svd",
    "linear",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
"""Combinations of PEFT's `add_weighted_adapter`. `cat` adds the updates exactly."""

METHODS: tuple[Method, ...] = get_args(Method)

UNPRUNED = frozenset({"cat", "svd", "linear"})
"""Methods that keep all values, and have no density."""

_DENSITY = 0.5


@dataclass(frozen=True)
class Combination:
    """Runs to combine, each with its weight."""

    runs: tuple[RunDir, ...]
    weights: tuple[float, ...]
    method: Method = "cat"
    density: float | None = None
    """Share of the values to keep; only for methods that prune."""

    def __str__(self) -> str:
        named = zip(self.runs, self.weights, strict=True)
        return f"{' + '.join(f'{weight:.3g} x {run.path}' for run, weight in named)}, by {self.method}"


def combine(
    combination: Combination,
    folder: Path,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> Path:
    """Write the combined adapter of several runs. Every adapter is brought into plain LoRA first.

    PEFT combines adapters of LoRA with a scale of `lora_alpha / r` only; others come out with another scale.

    Args:
        combination: the runs. All have the base of the first.
        folder: an empty folder.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match a manifest.
        observer: receives the stages.

    Returns:
        The folder of the adapter.

    Raises:
        UsageError: if a run has another base, or its adapter is no update of layers.
    """
    observer = observer or SilentObserver()
    manifests = [run.read() for run in combination.runs]
    _check(combination.runs, manifests)
    found: list[dict[str, Factors]] = []
    record = {}
    for run in combination.runs:
        observer.stage(f"reading the adapter of {run.path}")
        trained = load_layers(open_run(run, base_path, force=force))
        if whole := whole_modules(trained.model):
            what = f"`{min(whole)}` was trained as a whole, which is not combined"
            raise UsageError(Problem(str(run.path), what, "leave the run out"))
        found.append(updates_of(trained))
        record = describe_base(trained.model)
    common = max(factors.rank for updates in found for factors in updates.values())
    if has_skeleton(trained):
        bare = without_weights(skeleton_of(trained))
    else:
        bare = load_base(trained.base, loading_of(trained.manifest))
    places = [folder / f"run{number}" for number in range(len(found))]  # PEFT looks for the names within keys
    for place, updates in zip(places, found, strict=True):
        place.mkdir()
        write(place, {name: factors.padded(common) for name, factors in updates.items()}, bare, {}, record)
    observer.stage("combining the adapters")
    adapted = _combined(bare, places, combination, manifests[0].recipe.training.seed)
    adapted.save_pretrained(str(folder), selected_adapters=[_NAME])
    return folder / _NAME


_NAME = "combined"


def _combined(bare: object, places: Sequence[Path], combination: Combination, seed: int) -> PeftModel:
    import peft
    from transformers import set_seed

    names = [place.name for place in places]
    adapted = peft.PeftModel.from_pretrained(bare, str(places[0]), adapter_name=names[0])
    for place, name in zip(places[1:], names[1:], strict=True):
        adapted.load_adapter(str(place), adapter_name=name)
    prunes = combination.method not in UNPRUNED
    density = (_DENSITY if combination.density is None else combination.density) if prunes else None
    set_seed(seed)  # DARE drops values at random
    try:
        adapted.add_weighted_adapter(
            names, list(combination.weights), _NAME, combination_type=combination.method, density=density
        )
    except ValueError as error:
        what = f"cannot be combined by `{combination.method}`: {first_line(error)}"
        raise UsageError(Problem("--method", what, "choose another, such as `cat`")) from None
    adapted.set_adapter(_NAME)
    return adapted


def _check(runs: Sequence[RunDir], manifests: Sequence[Manifest]) -> None:
    """Check that the adapters belong to one stored base and one task. Raises `UsageError`."""
    first = manifests[0]
    for run, manifest in zip(runs, manifests, strict=True):
        check_convertible(run, manifest)
        if manifest.base_adapters:
            what = "starts from a base with adapters of earlier runs, which would be added more than once"
            raise UsageError(Problem(str(run.path), what, "merge it first, and train on the merged model"))
        if manifest.base.fingerprint != first.base.fingerprint:
            what = f"was trained on another base than {runs[0].path}"
            raise UsageError(Problem(str(run.path), what, "combine runs of one base"))
        if manifest.recipe.task_type != first.recipe.task_type:
            what = f"is a run of `{manifest.recipe.task_type}`, and {runs[0].path} of `{first.recipe.task_type}`"
            raise UsageError(Problem(str(run.path), what, "combine runs of one task type"))
