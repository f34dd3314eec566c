"""The adapter: put onto a base, saved so that it can be trusted, opened again without a silent gap."""

from __future__ import annotations

import difflib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.basemodel import Base
from lora_ns.engine.model import head_names
from lora_ns.errors import PlanError, Problem, RunError, UsageError
from lora_ns.recipe.peft import Lora, PeftMethod, PromptTuning, method_name

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
_ROUTERS = frozenset({"gate", "router"})


def add_adapter(model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base) -> PeftModel:
    """The base with a new adapter; everything that is trained is in float32.

    The seeds are to be set before. Nothing but the adapter, and the head of a classifier, has a gradient.

    Raises:
        PlanError: if a target matches nothing, or the method does not know this family of models.
    """
    import peft

    config = make_config(model, method, task_type, base)
    try:
        adapted = peft.get_peft_model(model, config)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        what = f"peft.method: {method_name(method)} cannot be put onto {type(model).__name__}: {reason}"
        raise PlanError(Problem("", what, "choose other `target_modules`, or another method")) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    stored = adapted.peft_config["default"]
    stored.base_model_name_or_path = base.name if base.commit else str(base.path)
    stored.revision = base.commit
    return adapted


def make_config(model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base) -> PeftConfig:
    """The method's PEFT configuration, its targets resolved to modules of this model. Raises `PlanError`."""
    import peft

    kwargs: dict[str, Any] = {**method.to_kwargs(), "task_type": task_type}
    heads = list(head_names(model)) if task_type != "CAUSAL_LM" else []
    if heads and "modules_to_save" in kwargs:
        kwargs["modules_to_save"] = list(dict.fromkeys([*(kwargs["modules_to_save"] or []), *heads]))
    if isinstance(method, Lora) and kwargs["target_modules"] == "all-linear":
        kwargs["target_modules"] = all_linear(model, kwargs["modules_to_save"] or [])
    elif kwargs.get("target_modules"):
        check_targets(model, kwargs["target_modules"])
    if isinstance(method, PromptTuning) and method.prompt_tuning_init == "TEXT":
        kwargs["tokenizer_name_or_path"] = str(base.path)
    return getattr(peft, method.config_class)(**kwargs)


def all_linear(model: PreTrainedModel, whole: Sequence[str]) -> list[str]:
    """Every linear layer but the head, routers and modules that are trained whole, by names that say just that."""
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    skipped = {"lm_head", *whole, *_ROUTERS}
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        and module is not output
        and not skipped.intersection(name.split("."))
    ]
    if not layers:
        raise PlanError(
            Problem("", f"peft.target_modules: {type(model).__name__} has no linear layers", "name the modules")
        )
    ends = sorted({name.rpartition(".")[2] for name in layers})
    reached = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends]
    return ends if sorted(reached) == sorted(layers) else sorted(layers)


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Every target has to match a module: PEFT itself lets a misspelt one pass beside a right one.

    Raises:
        PlanError: with the targets that match nothing, and close names.
    """
    names = [name for name, _ in model.named_modules() if name]
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    problems = []
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        close = difflib.get_close_matches(target, ends, n=3) or ends[:12]
        hint = (
            f"did you mean {' or '.join(f'`{name}`' for name in close)}?"
            if len(close) <= 3
            else f"there are: {', '.join(close)}"
        )
        problems.append(
            Problem("", f"peft.target_modules: `{target}` matches no module of {type(model).__name__}", hint)
        )
    if problems:
        raise PlanError(problems)


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, generation: dict[str, Any], folder: Path
) -> None:
    """Write the adapter as plain PEFT with its tokenizer, template and generation settings: whole, or not at all.

    Raises:
        RunError: if what was written is not what was trained.
    """
    from peft import get_peft_model_state_dict

    staged = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    model.save_pretrained(staged, save_embedding_layers=False)
    (staged / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(staged)
    (staged / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    check_saved(staged, get_peft_model_state_dict(model, save_embedding_layers=False))
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


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


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The base with a saved adapter, in evaluation mode.

    Raises:
        UsageError: if a key of the file has no place in the model, or a place stays empty: PEFT only warns of that.
    """
    import peft
    from safetensors import SafetensorError

    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, ValueError, RuntimeError, OSError, KeyError) as error:
        what = f"the adapter cannot be loaded: {str(error).strip().splitlines()[0]}"
        raise UsageError(Problem(str(folder), what, "train again, or restore the folder")) from error
    _check_keys(adapted, folder)
    adapted.eval()
    return adapted


def _check_keys(adapted: PeftModel, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if saved != expected:
        missing, extra = sorted(expected - saved), sorted(saved - expected)
        what = f"missing `{missing[0]}`" if missing else f"`{extra[0]}` has no place in the model"
        raise UsageError(
            Problem(
                str(folder / WEIGHTS), f"not an adapter of this base: {what}", "use the base that it was trained on"
            )
        )


def plainly_started(method: PeftMethod) -> PeftMethod:
    """A method without a start that is computed from the base's weights: for a base that has none."""
    starts = {"init_lora_weights": "default", "prompt_tuning_init": "RANDOM"}
    plain = {key: value for key, value in starts.items() if key in type(method).model_fields}
    return method.model_copy(update=plain)


def adapted_modules(model: PeftModel) -> dict[str, int]:
    """How many modules were adapted, by the last part of their names; none for virtual tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return dict(sorted(Counter(names).items()))


def trainable_parameters(model: PeftModel) -> int:
    """Number of parameters with a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
