"""The adapter: added to a base, saved, and verified after saving."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import MissingError, PlanError, Problem, RunError, first_line
from lora_ns.files.disk import follow_umask
from lora_ns.files.removal import remove
from lora_ns.methods import PeftMethod
from lora_ns.methods.lora import MOVE_BASE, READ_ROWS
from lora_ns.model.adapter_config import UNKNOWN_STEPS, make_config
from lora_ns.model.files import Base
from lora_ns.model.load import whole_modules
from lora_ns.model.modules import check_reached

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"


STARTED_ONCE = READ_ROWS | MOVE_BASE
"""Initialisations, by their PEFT names, that must not run again when a saved adapter is loaded."""


def add_adapter(
    model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int = UNKNOWN_STEPS
) -> PeftModel:
    """Add a new adapter to a base, with all trained parameters in float32.

    An initialisation that is computed later starts as plain LoRA here; see `starts`. Set the seeds before. Only the
    adapter, and the head of a classifier, get gradients.

    Args:
        model: the base model.
        method: the recipe's `[peft]` table.
        task_type: the recipe's task type.
        base: the source of the model, which is recorded in the adapter.
        steps: number of training steps, for methods with their own schedule.

    Raises:
        PlanError: if a target matches nothing, or the method does not support this model family.
    """
    import peft

    with _translating_peft_errors(model, method):
        first = method.plainly_started() if method.starts_later else method
        config = make_config(model, first, task_type, base, steps)
        adapted = peft.get_peft_model(model, config)
    if getattr(method, "target_modules", "all-linear") != "all-linear":  # all-linear may exclude some
        check_reached(adapted, getattr(config, "target_modules", None))
    train_in_float32(adapted)
    return record_base(adapted, base)


def record_base(adapted: PeftModel, base: Base) -> PeftModel:
    """Record the base in the configuration of an adapter."""
    stored = adapted.peft_config["default"]
    stored.base_model_name_or_path = base.name if base.commit else str(base.location)
    stored.revision = base.commit
    return adapted


def train_in_float32(model: PeftModel) -> None:
    """Convert all trained parameters to float32, whatever the dtype of the base."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def check_head(model: PeftModel, base: Base, task_type: str) -> None:
    """Check that a classifier's head, which the base does not have, is trained. Raises `PlanError`."""
    if task_type == "CAUSAL_LM":
        return
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    for head in whole_modules(model.get_base_model(), base):
        if not any(f".{head}.modules_to_save." in name for name in trained):
            what = f"the head `{head}` is frozen, so it would keep its random initialisation"
            raise PlanError(Problem("", what, f'train it with `modules_to_save = ["{head}"]`'))


@contextlib.contextmanager
def _translating_peft_errors(model: PreTrainedModel, method: PeftMethod) -> Iterator[None]:
    """Turn PEFT's errors about a method and a model, or about a missing package, into one line."""
    try:
        yield
    except ImportError as error:
        raise MissingError(Problem("", first_line(error), "`lorans env-check`")) from error
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        what = f"{method.tag()} cannot be added to {type(model).__name__}: {first_line(error)}"
        remedy = "choose other `target_modules`, or another method"
        raise PlanError(Problem("", what, remedy, key="peft.method")) from error


def check_fit(model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int) -> None:
    """Check on a model without weights that every name of the method matches, and every size fits its layers.

    Raises:
        PlanError: as `add_adapter` does.
    """
    plain = method.plainly_started()
    if method.capabilities.empty_base:
        add_adapter(model, plain, task_type, base, steps)
        return
    with _translating_peft_errors(model, method):
        make_config(model, plain, task_type, base, steps)


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    generation: dict[str, Any],
    folder: Path,
    start: Path | None = None,
) -> None:
    """Write the adapter as plain PEFT with tokenizer, chat template and generation settings; all of it or nothing.

    Args:
        model: the trained model.
        tokenizer: the tokenizer used in training.
        generation: the generation settings.
        folder: destination of the adapter.
        start: the initial adapter, if it was subtracted from the base. It is then subtracted from the saved adapter
            too, so that it fits the original base.

    Raises:
        RunError: if the saved weights differ from the trained ones.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    staged = folder.with_name(f".{folder.name}.new")
    remove(staged)
    model.save_pretrained(staged, save_embedding_layers=False)
    (staged / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(staged)
    (staged / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if start is not None:
        trained = {name: value.detach().cpu() for name, value in expected.items()}
        expected = without_start(trained, load_file(start / WEIGHTS))
    as_saved(staged, start)
    check_saved(staged, expected)
    follow_umask(staged)
    remove(folder)
    staged.rename(folder)


def as_saved(folder: Path, start: Path | None) -> None:
    """Turn an adapter as training writes it into one for the original base, which loads in any version of PEFT.

    Args:
        folder: folder of the adapter.
        start: the initial adapter, if it was subtracted from the base.
    """
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    kept = {name: value for name, value in weights.items() if not name.endswith(_OF_BASE)}
    if start is not None:
        kept = without_start(kept, load_file(start / WEIGHTS))
    if start is not None or len(kept) < len(weights):
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    settle_config(folder, widened=start is not None)


_OF_BASE = ".base_layer.weight"
"""End of the names of weights of the base, which PEFT adds to checkpoints for embeddings; biases are trained."""


def without_start(trained: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """Return weights for the original base: the trained update minus the initial one, at twice the rank.

    PEFT's own conversion keeps only the two factors. It drops other trained weights, and fails on a classifier's head.
    """
    import torch

    joined = {}
    for name, value in trained.items():
        if ".lora_A." in name:
            joined[name] = torch.cat([value, begun[name]], dim=0)
        elif ".lora_B." in name:
            joined[name] = torch.cat([value, -begun[name]], dim=1)
        else:
            joined[name] = value
    return joined


def settle_config(folder: Path, *, widened: bool = False) -> None:
    """Make a saved adapter with a special initialisation load like any LoRA, in any version of PEFT.

    Args:
        folder: folder of the adapter.
        widened: True if its ranks are twice those of its configuration; the scale of the update stays.
    """
    import peft

    config = peft.PeftConfig.from_pretrained(str(folder))
    if widened:
        scale = 2**0.5 if config.use_rslora else 2
        config.r *= 2
        config.lora_alpha *= scale
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
        config.alpha_pattern = {name: scale * alpha for name, alpha in config.alpha_pattern.items()}
    if widened or getattr(config, "init_lora_weights", True) in STARTED_ONCE:
        config.init_lora_weights = True
        config.eva_config = config.corda_config = config.lora_ga_config = None
        config.save_pretrained(str(folder))


def check_saved(folder: Path, expected: dict[str, Any]) -> None:
    """Load a saved adapter and compare names, shapes and values with the one in memory.

    Raises:
        RunError: naming the first difference.
    """
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS)
    problem = None
    if saved.keys() != expected.keys():
        first = min(saved.keys() ^ expected.keys())
        problem = f"`{first}` is {'missing' if first in expected else 'unexpected'}"
    else:
        different = [key for key, value in expected.items() if not torch.equal(value.detach().cpu(), saved[key])]
        if different:
            problem = f"`{different[0]}` differs from the trained weights"
    if problem:
        raise RunError(
            Problem(
                str(folder), f"the saved adapter differs from the trained one: {problem}", "resume from a checkpoint"
            )
        )


def adapted_modules(model: PeftModel) -> dict[str, int]:
    """Count the adapted modules by the last part of their names; empty for virtual tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return dict(sorted(Counter(names).items()))


def trainable_parameters(model: PeftModel) -> int:
    """Count parameters with a gradient, without AdaLoRA's `ranknum`, which PEFT stores as parameters."""
    parameters = (value for name, value in model.named_parameters() if "ranknum" not in name)
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
