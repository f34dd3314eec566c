"""The reference of an objective: the start of training, compared with the model and, if asked, computed beforehand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.probes import TOKENS
from lora_ns.errors import Problem, RunError
from lora_ns.files.disk import follow_umask, telling_disk_errors
from lora_ns.files.marks import mark_folder
from lora_ns.files.removal import remove
from lora_ns.model.load import computing, difference
from lora_ns.objectives.frozen_start import FrozenStart
from lora_ns.parallel.group import Rank, any_of, meet
from lora_ns.training.seal import ROWS, TOLERANCE

if TYPE_CHECKING:
    import datasets
    import torch

_FILE = "log_probabilities.safetensors"

_SPLITS = ("train", "eval")


def refer_to_start(trainer: Any, rows: datasets.Dataset, dtype: str, *, is_new: bool) -> None:
    """Make the start of training the reference of a trainer, before its first step or a checkpoint is loaded.

    Args:
        trainer: a TRL trainer that is `Referring`.
        rows: tokenised rows, of which the first few are compared.
        dtype: dtype of the computation.
        is_new: whether the adapter is a new one, so that the base alone is the start.

    Raises:
        RunError: if the reference gives other log-probabilities than the model.
    """
    model = trainer.model
    trainer.ref_model = None if is_new else FrozenStart(model)
    was_training = model.training
    model.eval()
    chosen = rows.select(range(min(ROWS, len(rows))))
    found = _log_probabilities(model, chosen, trainer.args.device, dtype)
    with trainer.referring() as reference:
        expected = _log_probabilities(reference, chosen, trainer.args.device, dtype)
    model.train(was_training)
    most = max(map(difference, expected, found), default=0.0)
    if not most <= TOLERANCE[dtype]:
        what = (
            f"the reference differs from the model before the first step, by {most:.1e} of the largest log-probability"
        )
        raise RunError(Problem("", what, "choose another method, and report this", key="peft.method"))


def _log_probabilities(model: Any, rows: datasets.Dataset, device: Any, dtype: str) -> list[torch.Tensor]:
    """Log-probabilities of all tokens at the first positions of each row."""
    import torch

    found = []
    with torch.no_grad(), computing(device.type, dtype):
        for row in rows:
            ids = torch.tensor([row["input_ids"][:TOKENS]], device=device)
            found.append(torch.log_softmax(model(input_ids=ids).logits.float(), dim=-1).cpu())
    return found


def is_kept(folder: Path) -> bool:
    """Test that a run has saved the log-probabilities of its reference."""
    return (folder / _FILE).is_file()


def refer_once(trainer: Any, folder: Path, rank: Rank, tell: Callable[[int, int], None]) -> None:
    """Give all rows of a trainer the log-probabilities of its reference: the saved ones, or else computed and saved.

    Args:
        trainer: a trainer whose reference is set and whose model is at its start.
        folder: the folder to keep them in.
        rank: the process; each computes a part of the batches.
        tell: called with the number of rows done, and of all.

    Raises:
        RunError: if they cannot be saved.
    """
    from safetensors.torch import load_file

    if any_of(not is_kept(folder)):
        values = _all_computed(trainer, rank, tell)
        if rank.is_first:
            _keep(values, folder)
        if rank.world > 1:
            meet()
    kept = load_file(folder / _FILE)
    for split, rows in _rows(trainer).items():
        columns = {name: _fitted(kept[f"{split}.{name}"].tolist(), len(rows)) for name in trainer.reference_columns}
        setattr(trainer, f"{split}_dataset", _with_columns(rows, columns))
    trainer.precompute_ref_logps = True


def _with_columns(rows: datasets.Dataset, columns: dict[str, list[float]]) -> datasets.Dataset:
    for name, column in columns.items():
        rows = rows.add_column(name, column)
    return rows


def _rows(trainer: Any) -> dict[str, datasets.Dataset]:
    found = {split: getattr(trainer, f"{split}_dataset") for split in _SPLITS}
    return {split: rows for split, rows in found.items() if rows is not None}


def _all_computed(trainer: Any, rank: Rank, tell: Callable[[int, int], None]) -> dict[str, torch.Tensor]:
    """The log-probabilities of all rows, by split and column."""
    total, before = sum(len(rows) for rows in _rows(trainer).values()), 0
    values = {}
    for split, rows in _rows(trainer).items():
        for name, column in _computed(trainer, rows, rank, functools.partial(_tell_all, tell, before, total)):
            values[f"{split}.{name}"] = column
        before += len(rows)
    return values


def _tell_all(tell: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    tell(before + done, total)


def _computed(
    trainer: Any, rows: datasets.Dataset, rank: Rank, tell: Callable[[int], None]
) -> list[tuple[str, torch.Tensor]]:
    """The columns of log-probabilities of all rows, in their order, each of shape (rows,)."""
    import torch

    size, device = trainer.args.per_device_eval_batch_size, trainer.args.device
    values = torch.zeros(len(trainer.reference_columns), len(rows), device=device)
    was_training, estimates = trainer.model.training, getattr(trainer, "calculate_KL", None)
    trainer.model.eval()
    if estimates:  # of the distance: it depends on the batches of training
        trainer.calculate_KL = False
    for first in range(rank.number * size, len(rows), rank.world * size):
        places = range(first, min(first + size, len(rows)))
        batch = trainer._prepare_inputs(trainer.data_collator([rows[place] for place in places]))
        found = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
        for column, one in enumerate(found[: len(values)]):
            values[column, first : places.stop] = one.float()
        tell(places.stop)
    if estimates:
        trainer.calculate_KL = estimates
    trainer.model.train(was_training)
    values = trainer.accelerator.reduce(values, "sum")  # every other process has zeros in these places
    return list(zip(trainer.reference_columns, values.cpu(), strict=True))


def _keep(values: dict[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    staged = folder.with_name(f".{folder.name}.new")
    with telling_disk_errors(folder):
        remove(staged)
        staged.mkdir(parents=True)
        save_file({name: column.contiguous() for name, column in values.items()}, staged / _FILE)
        follow_umask(staged)
        mark_folder(staged)
        remove(folder)
        staged.rename(folder)


def _fitted(values: list[float], count: int) -> list[float]:
    """The values of `count` rows: rows at the end only fill up the last batches, by the number of processes."""
    return [*values[:count], *[0.0] * (count - len(values))]
