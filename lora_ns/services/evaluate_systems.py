"""The systems of an evaluation: a run and its base, its checkpoints, other runs, and plain models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_ns.answers.opened import Opened
from lora_ns.answers.plain_model import open_model
from lora_ns.errors import Problem, UsageError
from lora_ns.run.last_checkpoint import search
from lora_ns.services.evaluate_suites import ADAPTER_NAME, BASE_NAME, System


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
        UsageError: if one is given twice.
        ModelError: if a folder is no model.
    """
    folders = [*(run.run.path for run in runs), *models]
    places = [folder.resolve() for folder in (opened.run.path, *folders)]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(Problem(str(folders[number - 1]), "is given twice", "give each run and model once"))
    names = _names(folders)
    return [
        *(System(name, run, is_rival=True) for name, run in zip(names, runs, strict=False)),
        *(
            System(name, open_model(opened, folder), is_rival=True)
            for name, folder in zip(names[len(runs) :], models, strict=True)
        ),
    ]


def _names(folders: Iterable[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart from one another and from the first run."""
    whole = [folder.absolute().parts for folder in folders]
    taken = {ADAPTER_NAME, BASE_NAME}
    for count in range(1, max(map(len, whole), default=1) + 1):
        names = ["/".join(parts[-count:]).lstrip("/") for parts in whole]
        if len({*names, *taken}) == len(names) + len(taken):
            return names
    return [str(Path(*parts)) for parts in whole]
