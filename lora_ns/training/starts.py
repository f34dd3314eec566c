"""Initialisations of LoRA that are computed from the base's weights or from training rows, before the first step.

The base first gets an adapter with the default initialisation. Once the trainer exists, PEFT computes the real one from
the trainer's own batches and loss. Some initialisations subtract the initial product of the two factors from the base,
so that the model's output does not change. The initial factors are saved: a resumed run needs them, and they are
subtracted from the trained adapter when it is saved, which then fits the unmodified base like any LoRA adapter.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem, RunError, first_line
from lora_ns.files.disk import follow_umask
from lora_ns.files.marks import mark_folder
from lora_ns.files.removal import remove
from lora_ns.methods.base import Start
from lora_ns.model.adapter import WEIGHTS, settle_config, train_in_float32
from lora_ns.model.malformed import translating
from lora_ns.model.saved_adapter import check_config, check_keys

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer

_ADAPTER = "default"


FILES = ("adapter_config.json", WEIGHTS)
"""Files of a saved initialisation; the presence of the weights means that it is complete."""


_LAST_PASSES = 8
"""Passes with all rows in one batch after which EVA is abandoned."""


def begin(trainer: Trainer, start: Start, folder: Path, seed: int) -> None:
    """Compute the initialisation of the trainer's adapter, and save it.

    Args:
        trainer: a trainer whose model has a default adapter; its optimizer is created afterwards.
        start: the initialisation in the recipe.
        folder: the folder to save it in.
        seed: determines the rows that are drawn.

    Raises:
        PlanError: if the initialisation does not fit the layers or the rows.
        RunError: if PEFT left the adapter at its default initialisation.
    """
    from transformers import set_seed

    model: PeftModel = trainer.model
    layers = _layers(model, start)
    _check_sizes(layers, start)
    plain = {name: layer.lora_A[_ADAPTER].weight.detach().clone() for name, layer in layers.items()}
    set_seed(seed)
    with _telling(start), _uncounted(trainer):
        _start_of(start)(trainer, start, seed)
    train_in_float32(model)
    _check_started(_layers(model, start), plain, start)
    _keep(model, folder)


def is_kept(folder: Path) -> bool:
    """Test that a run has saved its initialisation."""
    return (folder / WEIGHTS).is_file()


def put_back(base: PreTrainedModel, start: Start, folder: Path) -> PeftModel:
    """The base with the saved initialisation of its adapter; trainable parameters are in float32."""
    import peft

    check_config(folder)
    remedy = "restore it, or start a new run with `--overwrite`"
    with translating(Problem(str(folder), "the adapter's initialisation cannot be read", remedy)):
        model = peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    check_keys(model, folder)
    train_in_float32(model)
    if start.moves_base:
        for layer in _layers(model, start).values():
            _take_off(layer, layer.get_base_layer().weight.data)
    model.peft_config[_ADAPTER].init_lora_weights = start.name
    return model


def _keep(model: PeftModel, folder: Path) -> None:
    """Save the initialisation as a PEFT adapter, completely or not at all."""
    staged = folder.with_name(f".{folder.name}.new")
    remove(staged)
    model.save_pretrained(staged, save_embedding_layers=False)
    (staged / "README.md").unlink(missing_ok=True)
    settle_config(staged)
    follow_umask(staged)
    mark_folder(staged)
    remove(folder)
    staged.rename(folder)


def _layers(model: PeftModel, start: Start) -> dict[str, Any]:
    """The adapted layers by name. Raises `PlanError` if one of them is not linear."""
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    found = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in found.items():
        if not isinstance(layer.get_base_layer(), (torch.nn.Linear, Conv1D)):
            what = f'"{start.name}" initialises linear layers only, and `{_short(name)}` is not one'
            raise PlanError(Problem("", what, 'remove it from `target_modules`, or write "default"', key=_KEY))
    return found


def _check_sizes(layers: Mapping[str, Any], start: Start) -> None:
    """Check that each layer is large enough for the directions that its rank needs. Raises `PlanError`."""
    share = {"eva": start.rho, "lora_ga": 2.0}.get(start.name, 1.0)
    for name, layer in layers.items():
        rank, sides = layer.r[_ADAPTER], (layer.in_features, layer.out_features)
        most = layer.in_features if start.name == "eva" else min(sides)
        if rank * share > most:
            what = f'"{start.name}" needs {int(rank * share)} directions of `{_short(name)}`, which has {most}'
            raise PlanError(Problem("", what, f"set `lora_r` to at most {int(most / share)}", key=_KEY))


def _check_started(layers: Mapping[str, Any], plain: Mapping[str, Any], start: Start) -> None:
    """Check that PEFT did not silently fall back to the default initialisation. Raises `RunError`."""
    import torch

    for name, layer in layers.items():
        first, second = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        problem = None
        if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
            problem = "are not finite"
        elif not (first.any() and second.any() if start.moves_base else not torch.equal(first, plain[name])):
            problem = "are those of the default initialisation"
        if problem:
            what = f'"{start.name}": the initial weights of `{_short(name)}` {problem}'
            remedy = 'add rows that use this layer, remove it from `target_modules`, or write "default"'
            raise RunError(Problem("", what, remedy, key=_KEY))


def _take_off(layer: Any, weight: Any) -> None:
    """Set a layer's base weight to `weight` minus the product of its factors."""
    layer.get_base_layer().weight.data = (weight.float() - layer.get_delta_weight(_ADAPTER)).to(weight.dtype)


def _restart(trainer: Trainer, start: Start, _seed: int = 0) -> None:
    """Let PEFT recompute the factors of each layer, and subtract their product, in float32, from its base."""
    from peft import LoraConfig

    model: PeftModel = trainer.model
    config = copy.copy(model.peft_config[_ADAPTER])
    chosen = LoraConfig(**{**start.kwargs, "target_modules": None})
    for field in ("init_lora_weights", "corda_config", "lora_ga_config"):
        setattr(config, field, getattr(chosen, field))
    for layer in _layers(model, start).values():
        weight = layer.get_base_layer().weight.data.clone()
        layer.update_layer(_ADAPTER, layer.r[_ADAPTER], lora_alpha=layer.lora_alpha[_ADAPTER], config=config)
        for factor in (layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]):
            factor.weight.data = factor.weight.data.float()
        _take_off(layer, weight)
    model.peft_config[_ADAPTER].init_lora_weights = start.name


def _corda(trainer: Trainer, start: Start, seed: int) -> None:
    """Initialise with CorDA: directions of the base, weighted by their use in the rows.

    Rows are read one at a time, as PEFT's hook assumes.
    """
    import torch
    from peft.tuners.lora.corda import preprocess_corda

    batches = _batches(trainer, start, seed, 1)

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                _loss(trainer, batch)

    preprocess_corda(trainer.model, _bare_config(trainer.model, start), run)
    _restart(trainer, start)


def _lora_ga(trainer: Trainer, start: Start, seed: int) -> None:
    """Initialise with LoRA-GA: directions of the gradient of the base's weights."""
    from peft.tuners.lora.loraga import preprocess_loraga

    batches = _batches(trainer, start, seed, trainer.args.per_device_train_batch_size)
    if trainer.args.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)

    def step() -> None:
        for batch in batches:
            _loss(trainer, batch).backward()

    preprocess_loraga(trainer.model, _bare_config(trainer.model, start), step)
    _restart(trainer, start)


def _eva(trainer: Trainer, start: Start, seed: int) -> None:
    """Initialise with EVA: directions of the layers' inputs, with more rank for the layers whose inputs vary most."""
    from peft import EvaConfig, initialize_lora_eva_weights

    model: PeftModel = trainer.model
    config = model.peft_config[_ADAPTER]
    config.init_lora_weights = "eva"
    most = max(layer.r[_ADAPTER] for layer in _layers(model, start).values())
    passes = _WideningPasses(trainer, start, seed, int(most * start.rho))
    has_token_labels = passes.first["labels"].shape == passes.first["input_ids"].shape
    config.eva_config = EvaConfig(rho=start.rho, use_label_mask=has_token_labels)
    initialize_lora_eva_weights(
        model, passes, forward_fn=lambda _, batch: _loss(trainer, batch), show_progress_bar=False
    )


def _start_of(start: Start) -> Callable[[Trainer, Start, int], None]:
    """The function that computes an initialisation."""
    by_rows = {"corda": _corda, "eva": _eva, "lora_ga": _lora_ga}
    return by_rows.get(start.name, _restart)


def _bare_config(model: PeftModel, start: Start) -> Any:
    """The configuration by which PEFT finds the layers to initialise, inside the existing adapter."""
    from peft import LoraConfig

    layers = {f"{name}.base_layer": layer.r[_ADAPTER] for name, layer in _layers(model, start).items()}
    kwargs = start.kwargs
    kept = {key: kwargs[key] for key in ("r", "init_lora_weights", "corda_config", "lora_ga_config") if key in kwargs}
    return LoraConfig(target_modules=list(layers), rank_pattern=layers, **kept)


def _loss(trainer: Trainer, batch: Mapping[str, Any]) -> Any:
    """The loss of a batch as the trainer computes it, in the precision of the later training."""
    with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
        return trainer.compute_loss(trainer.model, dict(batch))


def _batches(trainer: Trainer, start: Start, seed: int, size: int) -> list[dict[str, Any]]:
    """Random training rows, collated by the trainer's own collator."""
    rows = trainer.train_dataset.shuffle(seed=seed, keep_in_memory=True)  # writes no index file beside the run's rows
    rows = rows.select(range(min(start.samples, len(rows))))
    kept = trainer.args.per_device_eval_batch_size
    trainer.args.per_device_eval_batch_size = size
    try:
        return [dict(batch) for batch in trainer.get_test_dataloader(rows)]
    finally:
        trainer.args.per_device_eval_batch_size = kept


class _WideningPasses:
    """Passes over the rows for EVA, each with batches twice as large as in the previous pass; EVA stops at convergence.

    Over small batches that repeat, some directions may flip their sign forever, and PEFT never sees them converge. In
    the last batch, which holds all rows and is repeated a few times, they do not flip.
    """

    def __init__(self, trainer: Trainer, start: Start, seed: int, positions: int) -> None:
        """Find the smallest batch size whose batches have a position for each direction; PEFT skips smaller batches.

        Raises:
            PlanError: if all rows together have too few positions.
        """
        self._take = functools.partial(_batches, trainer, start, seed)
        self._size = trainer.args.per_device_train_batch_size
        self._positions = positions
        while not (found := self._wide(self._size)):
            whole = self._take(self._size)
            if len(whole) == 1:
                seen = _positions(whole[0])
                what = f'"{start.name}" needs {positions} directions, but its sample of rows has only {seen} tokens'
                raise PlanError(Problem("", what, "raise `init_samples`, or lower `lora_r` or `eva_rho`", key=_KEY))
            self._size *= 2
        self.first = found[0]

    def _wide(self, size: int) -> list[dict[str, Any]]:
        """The batches of this size; empty if any batch but the last has too few positions."""
        batches = self._take(size)
        wide = [batch for batch in batches if _positions(batch) >= self._positions]
        return wide if len(wide) >= len(batches) - 1 else []

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size = self._size
        while len(batches := self._wide(size)) > 1:
            yield from batches
            size *= 2
        for _ in range(_LAST_PASSES):
            yield from batches
        raise ValueError("the directions do not converge")


def _positions(batch: Mapping[str, Any]) -> int:
    """Number of positions of a batch that EVA uses: those with a label, or all tokens of a text to classify."""
    from lora_ns.table import IGNORED

    ids, labels = batch["input_ids"], batch["labels"]
    seen = batch["attention_mask"].bool() if "attention_mask" in batch else ids.ge(0)
    return int((seen & (labels != IGNORED) if labels.shape == ids.shape else seen).sum())


@contextlib.contextmanager
def _uncounted(trainer: Trainer) -> Iterator[None]:
    """Restore TRL's counters and the training mode afterwards, so that they reflect training alone."""
    names = {"_metrics", "_total_train_tokens"} & vars(trainer).keys()
    counted = {name: copy.deepcopy(vars(trainer)[name]) for name in names}
    was_training = trainer.model.training
    try:
        yield
    finally:
        vars(trainer).update(counted)
        trainer.model.train(was_training)


@contextlib.contextmanager
def _telling(start: Start) -> Iterator[None]:
    """Turn PEFT's complaint about layers or rows into one line. Raises `PlanError`."""
    try:
        yield
    except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        remedy = 'choose another initialisation, such as "pissa" or "default"'
        raise PlanError(
            Problem("", f'"{start.name}": PEFT cannot compute it: {first_line(error)}', remedy, key=_KEY)
        ) from error


_KEY = "peft.init_lora_weights"


def _short(name: str) -> str:
    """The name of a module within the base."""
    return name.removeprefix("base_model.model.")
