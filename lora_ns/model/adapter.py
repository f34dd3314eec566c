"""The adapter: put onto a base, and saved so that it can be trusted."""

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
"""Starts by their PEFT names that a saved adapter does not need again."""


def add_adapter(
    model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int = UNKNOWN_STEPS
) -> PeftModel:
    """The base with a new adapter; everything that is trained is in float32.

    What starts later starts plain here; see `starts`. The seeds are to be set before. Nothing but the adapter, and the
    head of a classifier, has a gradient.

    Args:
        model: the base.
        method: the recipe's `[peft]`.
        task_type: the recipe's.
        base: where the model comes from, which is stored in the adapter.
        steps: how long it will be trained, for methods with a schedule of their own.

    Raises:
        PlanError: if a target matches nothing, or the method does not know this family of models.
    """
    import peft

    with _telling_why_not(model, method):
        first = method.plainly_started() if method.starts_later else method
        config = make_config(model, first, task_type, base, steps)
        adapted = peft.get_peft_model(model, config)
    if getattr(method, "target_modules", "all-linear") != "all-linear":  # of all, some may be excluded on purpose
        check_reached(adapted, getattr(config, "target_modules", None))
    train_in_float32(adapted)
    stored = adapted.peft_config["default"]
    stored.base_model_name_or_path = base.name if base.commit else str(base.location)
    stored.revision = base.commit
    return adapted


def train_in_float32(model: PeftModel) -> None:
    """Bring what is trained into float32, whatever the base is in."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def check_head(model: PeftModel, base: Base, task_type: str) -> None:
    """The head of a classifier, which the base does not have, has to be trained. Raises `PlanError`."""
    if task_type == "CAUSAL_LM":
        return
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    for head in whole_modules(model.get_base_model(), base):
        if not any(f".{head}.modules_to_save." in name for name in trained):
            what = f"the head `{head}` is frozen: what it was made with by chance would stay"
            raise PlanError(Problem("", what, f'train it by `modules_to_save = ["{head}"]`'))


@contextlib.contextmanager
def _telling_why_not(model: PreTrainedModel, method: PeftMethod) -> Iterator[None]:
    """Turn what PEFT says of a method and a model, or of a package that reads its layers, into one line."""
    try:
        yield
    except ImportError as error:
        raise MissingError(Problem("", first_line(error), "`lorans env-check`")) from error
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        what = f"{method.tag()} cannot be put onto {type(model).__name__}: {first_line(error)}"
        remedy = "choose other `target_modules`, or another method"
        raise PlanError(Problem("", what, remedy, key="peft.method")) from error


def check_fit(model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int) -> None:
    """See that every name of the method means something in a model without weights, and every size fits its layers.

    Raises:
        PlanError: as `add_adapter` does.
    """
    plain = method.plainly_started()
    if method.capabilities.empty_base:
        add_adapter(model, plain, task_type, base, steps)
        return
    with _telling_why_not(model, method):
        make_config(model, plain, task_type, base, steps)


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    generation: dict[str, Any],
    folder: Path,
    start: Path | None = None,
) -> None:
    """Write the adapter as plain PEFT with its tokenizer, template and generation settings: whole, or not at all.

    Args:
        model: the trained model.
        tokenizer: as it was trained with.
        generation: its settings.
        folder: where the adapter goes.
        start: what it started from, if that was taken off the base: it is taken off the adapter, which fits the base.

    Raises:
        RunError: if what was written is not what was trained.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    staged = folder.with_name(f".{folder.name}.new")
    remove(staged)
    model.save_pretrained(staged, save_embedding_layers=False)
    (staged / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(staged)
    (staged / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if start is not None:
        begun = load_file(start / WEIGHTS)
        expected = without_start({name: value.detach().cpu() for name, value in expected.items()}, begun)
        save_file(without_start(load_file(staged / WEIGHTS), begun), staged / WEIGHTS, metadata={"format": "pt"})
    settle_config(staged, widened=start is not None)
    check_saved(staged, expected)
    follow_umask(staged)
    remove(folder)
    staged.rename(folder)


def without_start(trained: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """Weights of an adapter of the untouched base: what was trained less what it began with, by twice the rank.

    PEFT's own conversion keeps the two factors alone: it drops what else is trained, and fails on a classifier's head.
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
    """Let a saved adapter that has a start of its own load as any LoRA does, on any version of PEFT.

    Args:
        folder: the adapter's.
        widened: whether its ranks are twice what its configuration says; the scale of the update stays.
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
    """Open a saved adapter again and compare it with the one in memory: names, shapes, numbers.

    Raises:
        RunError: with the first difference.
    """
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS)
    problem = None
    if saved.keys() != expected.keys():
        first = min(saved.keys() ^ expected.keys())
        problem = f"`{first}` is {'missing' if first in expected else 'not of this adapter'}"
    else:
        different = [key for key, value in expected.items() if not torch.equal(value.detach().cpu(), saved[key])]
        if different:
            problem = f"`{different[0]}` is not what was trained"
    if problem:
        raise RunError(
            Problem(str(folder), f"the saved adapter is not the trained one: {problem}", "resume from a checkpoint")
        )


def adapted_modules(model: PeftModel) -> dict[str, int]:
    """How many modules were adapted, by the last part of their names; none for virtual tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return dict(sorted(Counter(names).items()))


def trainable_parameters(model: PeftModel) -> int:
    """Number of parameters with a gradient; AdaLoRA's counts of ranks, which PEFT keeps as parameters, have none."""
    parameters = (value for name, value in model.named_parameters() if "ranknum" not in name)
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
