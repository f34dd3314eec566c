"""The systems of an evaluation: a run and its base, its checkpoints, other runs, and plain models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from lora_ns.answers.opened import Opened
from lora_ns.answers.plain_model import open_model
from lora_ns.errors import Problem, UsageError
from lora_ns.objectives.targets import listed_labels
from lora_ns.run.last_checkpoint import search
from lora_ns.run.manifest import Manifest
from lora_ns.services.evaluate_suites import ADAPTER_NAME, BASE_NAME, CONSTANT_NAME, System


def checkpoints_of(opened: Opened) -> list[System]:
    """The intact checkpoints of a run, earliest first.

    Raises:
        UsageError: if there are none.
    """
    run = opened.run
    found = search(run.checkpoints, opened.manifest.run_id, every=True).whole
    if not found:
        remedy = "leave `--checkpoints` out; `training.save_total_limit` sets how many a run keeps"
        raise UsageError(Problem(str(run.checkpoints), "there are no intact checkpoints", remedy))
    return [System(folder.name, opened, str(folder), is_rival=True) for _, folder in sorted(found.items())]


def others_beside(opened: Opened, runs: Sequence[Opened], models: Sequence[Path]) -> list[System]:
    """Other runs and plain model folders, each with a name of its own.

    Raises:
        UsageError: if one is given twice, or does not answer as the run does.
        ModelError: if a folder is no model.
    """
    folders = [*(run.run.path for run in runs), *models]
    places = [folder.resolve() for folder in (opened.run.path, *folders)]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(Problem(str(folders[number - 1]), "is given twice", "give each run and model once"))
    objective = opened.manifest.recipe.objective
    if models and not objective.writes_text:
        what = f"a run of `[{objective.toml}]` is compared with other runs, not with plain models"
        raise UsageError(Problem("--model", what, "leave it out"))
    for run in runs:
        check_alike(opened, run)
    names = names_of(folders, {ADAPTER_NAME, BASE_NAME, CONSTANT_NAME})
    return [
        *(System(name, run, is_rival=True) for name, run in zip(names, runs, strict=False)),
        *(
            System(name, open_model(opened, folder), is_rival=True)
            for name, folder in zip(names[len(runs) :], models, strict=True)
        ),
    ]


def check_alike(opened: Opened, other: Opened) -> None:
    """Check that two runs answer in the same form. Raises `UsageError`."""
    first, second = opened.manifest, other.manifest
    kinds = [manifest.recipe.objective.answers for manifest in (first, second)]
    if kinds[0] != kinds[1] or first.problem_type != second.problem_type:
        what = f"answers with {_answers(second)}, and the first run with {_answers(first)}"
        raise UsageError(Problem(str(other.run.path), what, "compare runs of one kind"))
    if strange := sorted({*first.labels} ^ {*second.labels}):
        what = f"has other labels than the first run: {listed_labels(strange)}"
        raise UsageError(Problem(str(other.run.path), what, "compare runs with the same labels"))


def _answers(manifest: Manifest) -> str:
    kind = manifest.problem_type
    return (
        f"`{kind}`"
        if kind
        else {"text": "text", "tags": "tags", "score": "scores of pairs"}.get(
            manifest.recipe.objective.answers, "labels"
        )
    )


def names_of(folders: Iterable[Path], taken: Collection[str]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart from one another and from taken names."""
    whole = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, whole), default=1) + 1):
        names = ["/".join(parts[-count:]).lstrip("/") for parts in whole]
        if len({*names, *taken}) == len(names) + len(taken):
            return names
    return [str(Path(*parts)) for parts in whole]
