"""The adapter: put onto a base, saved so that it can be trusted, opened again without a silent gap."""

from __future__ import annotations

import difflib
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.basemodel import Base
from lora_ns.engine.model import head_names
from lora_ns.errors import PlanError, Problem, RunError, UsageError
from lora_ns.recipe.peft import AdaLora, Divisor, Lora, PeftMethod, PromptTuning, TrainableTokens, method_name

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
UNKNOWN_STEPS = 1000
"""Steps of a run where nobody says how many: only the schedule of AdaLoRA follows from them."""
STARTED_ONCE = frozenset({"corda", "eva", "lora_ga", "olora", "pissa", "pissa_niter_16"})
"""Starts by their PEFT names that a saved adapter does not need again."""
_ROUTERS = frozenset({"gate", "router"})


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

    try:
        config = make_config(model, _at_first(method), task_type, base, steps)
        adapted = peft.get_peft_model(model, config)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"peft.method: {method_name(method)} cannot be put onto {type(model).__name__}: {reason}"
        raise PlanError(Problem("", what, "choose other `target_modules`, or another method")) from error
    train_in_float32(adapted)
    stored = adapted.peft_config["default"]
    stored.base_model_name_or_path = base.name if base.commit else str(base.path)
    stored.revision = base.commit
    return adapted


def train_in_float32(model: PeftModel) -> None:
    """Bring what is trained into float32, whatever the base is in."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()


def make_config(
    model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int = UNKNOWN_STEPS
) -> PeftConfig:
    """The method's PEFT configuration, its targets resolved to modules of this model. Raises `PlanError`."""
    import peft

    kwargs: dict[str, Any] = {**method.to_kwargs(), "task_type": task_type}
    heads = list(head_names(model)) if task_type != "CAUSAL_LM" else []
    if heads and "modules_to_save" in kwargs:
        kwargs["modules_to_save"] = list(dict.fromkeys([*(kwargs["modules_to_save"] or []), *heads]))
    if kwargs.get("target_modules") == "all-linear":
        kwargs["target_modules"] = all_linear(model, kwargs["modules_to_save"] or [])
    elif kwargs.get("target_modules"):
        check_targets(model, kwargs["target_modules"])
    _check_tokens(model, method, task_type)
    if isinstance(method, Lora):
        _check_names(model, method, kwargs["target_modules"])
    if isinstance(method, PromptTuning) and method.prompt_tuning_init == "TEXT":
        kwargs["tokenizer_name_or_path"] = str(base.path)
    if isinstance(method, AdaLora):
        kwargs |= method.scheduled(steps)
    for divisor in method.divisors:
        kwargs[divisor.key] = fitting(model, kwargs["target_modules"], divisor, kwargs[divisor.key])
    return getattr(peft, method.config_class)(**kwargs)


def fitting(model: PreTrainedModel, targets: Sequence[str], divisor: Divisor, value: int | None) -> int:
    """A value that divides the layers that are adapted: the one that is given, or the largest that does.

    Raises:
        PlanError: if the given value does not, or none does.
    """
    sides = _sides(model, targets, divisor)
    common = math.gcd(*sides)
    known = [size for size in range(1, common + 1) if common % size == 0 and not (divisor.even and size % 2)]
    if value in known:
        return value
    largest = max((size for size in known if size <= divisor.most), default=0)
    if value is None and largest > 1:
        return largest
    sizes = ", ".join(map(str, sorted(sides)))
    what = f"peft.{divisor.key}: {value or 'no size'} does not divide the layers' sizes of {sizes}"
    raise PlanError(Problem("", what, f"write {largest}" if largest > 1 else "name other `target_modules`"))


def _sides(model: PreTrainedModel, targets: Sequence[str], divisor: Divisor) -> set[int]:
    """The sizes of the layers that are adapted, of the sides that a value has to divide."""
    found: set[int] = set()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or not any(_is_named(name, target) for target in targets):
            continue
        features = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        inputs, outputs = features if None not in features else tuple(weight.shape)
        found |= {"input": {inputs}, "output": {outputs}, "both": {inputs, outputs}}[divisor.sides]
    return found


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
    problems = _unmatched("target_modules", targets, names, f"no module of {type(model).__name__}")
    if problems:
        raise PlanError(problems)


def _check_tokens(model: PreTrainedModel, method: PeftMethod, task_type: str) -> None:
    """Rows of embeddings that are the head's as well cannot be trained for text. Raises `PlanError`."""
    key = "token_indices" if isinstance(method, TrainableTokens) else "trainable_token_indices"
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if task_type == "CAUSAL_LM" and is_tied and getattr(method, key, ()):
        what = f"peft.{key}: the base ties its embeddings to its head, whose own weights TRL's loss reads"
        raise PlanError(Problem("", what, "choose a base that does not tie them"))


def _check_names(model: PreTrainedModel, method: Lora, targets: Sequence[str]) -> None:
    """The other names that LoRA is given have to match something, too. Raises `PlanError`."""
    modules = [name for name, _ in model.named_modules() if name]
    adapted = [name for name in modules if any(_is_named(name, target) for target in targets)]
    parameters = [name for name, _ in model.named_parameters()]
    problems = [
        *_unmatched("exclude_modules", method.exclude_modules, modules, "no module"),
        *_unmatched("target_parameters", method.target_parameters, parameters, "no parameter"),
        *_unmatched("rank_pattern", method.rank_pattern, adapted, "no adapted layer", _is_matched),
        *_unmatched("alpha_pattern", method.alpha_pattern, adapted, "no adapted layer", _is_matched),
    ]
    if problems:
        raise PlanError(problems)


def _is_named(name: str, end: str) -> bool:
    """Whether a module is meant by the end of its name."""
    return name == end or name.endswith(f".{end}")


def _is_matched(name: str, pattern: str) -> bool:
    """Whether a module is meant by the end of its name or by a pattern of it, as PEFT reads one."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
    except re.error:
        return False


def _unmatched(
    key: str,
    wanted: Iterable[str],
    names: Sequence[str],
    nothing: str,
    is_meant: Callable[[str, str], bool] = _is_named,
) -> list[Problem]:
    """The problems of wanted names that mean none of the names, with close ones."""
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    problems = []
    for name in wanted:
        if any(is_meant(other, name) for other in names):
            continue
        close = difflib.get_close_matches(name, ends, n=3) or ends[:12]
        told = " or ".join(f"`{end}`" for end in close)
        hint = f"did you mean {told}?" if len(close) <= 3 else f"there are: {', '.join(close)}"
        problems.append(Problem("", f"peft.{key}: `{name}` matches {nothing}", hint))
    return problems


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
    shutil.rmtree(staged, ignore_errors=True)
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
    shutil.rmtree(folder, ignore_errors=True)
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
    check_keys(adapted, folder)
    adapted.eval()
    return adapted


def check_keys(adapted: PeftModel, folder: Path) -> None:
    """Every key of a saved adapter has its place in the model, and every place its key. Raises `UsageError`."""
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


def _at_first(method: PeftMethod) -> PeftMethod:
    """The method as it is put onto the base."""
    return plainly_started(method) if isinstance(method, Lora) and method.starts_later else method


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
    """Number of parameters with a gradient; AdaLoRA's counts of ranks, which PEFT keeps as parameters, have none."""
    parameters = (value for name, value in model.named_parameters() if "ranknum" not in name)
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
