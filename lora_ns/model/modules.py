"""The modules that a method adapts, looked up on the model itself, so that every name matches something."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem, did_you_mean, question
from lora_ns.methods import PeftMethod
from lora_ns.methods.base import Divisor
from lora_ns.methods.lora import is_matched
from lora_ns.methods.tensors import fitting_divisor
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.safety.deadline import OverrunError, bounded

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


_EXPERTS = "experts"


def resolve_targets(model: PreTrainedModel, kwargs: Mapping[str, Any], task_type: str) -> dict[str, Any]:
    """Resolve `target_modules` to modules of this model, with other keys that change as a consequence.

    Raises:
        PlanError: if a target matches nothing that can be adapted.
    """
    whole = kwargs.get("modules_to_save") or []
    if kwargs["target_modules"] != "all-linear":
        check_targets(model, kwargs["target_modules"], whole)
        if task_type == "CAUSAL_LM":
            _check_head(model, kwargs["target_modules"])
        return {}
    targets = all_linear(model, whole)
    layers = kwargs.get("layers_to_transform")
    if not layers or "." not in targets[0]:
        return {"target_modules": targets}
    # PEFT only checks the layer number if a target is the end of a name.
    kept = [name for name in targets if (number := _LAYER.match(name)) and int(number[1]) in layers]
    return {"target_modules": kept or targets, "layers_to_transform": None if kept else layers}


_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The layer number in a module name, as PEFT reads it."""


def all_linear(model: PreTrainedModel, whole: Sequence[str]) -> list[str]:
    """Return names for every linear layer of the backbone, except routers and fully trained modules.

    For a multimodal model, only the text part is adapted.
    """
    layers = [name for name, _ in _text_part(model) if not {"lm_head", *whole, *_ROUTERS}.intersection(name.split("."))]
    if not layers:
        raise PlanError(
            Problem("", f"{type(model).__name__} has no linear layers", "name the modules", key="peft.target_modules")
        )
    ends = sorted({name.rpartition(".")[2] for name in layers})
    reached = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends]
    return ends if sorted(reached) == sorted(layers) else sorted(layers)


def all_norms(model: PreTrainedModel, whole: Sequence[str]) -> list[str]:
    """Return name endings of all norms outside fully trained modules. Raises `PlanError` if there are none."""
    norms = [
        name
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm")) and not set(whole).intersection(name.split("."))
    ]
    if not norms:
        what = f"{type(model).__name__} has no normalisation layers of a known class"
        raise PlanError(Problem("", what, "name the modules", key="peft.target_modules"))
    return sorted({name.rpartition(".")[2] for name in norms})


def _text_part(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Return the linear layers of the text part, without the output embeddings."""

    output = model.get_output_embeddings()
    inside = set(model.get_decoder().modules()) if model.config.get_text_config() is not model.config else None
    return [
        (name, module)
        for name, module in model.named_modules()
        if _is_linear(module) and module is not output and (inside is None or module in inside)
    ]


def _is_linear(module: nn.Module) -> bool:
    """True for a linear layer, including the quantisers' own classes."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D)) or any(
        kind.is_linear(module) for kind in QUANTIZATIONS.values()
    )


def check_targets(model: PreTrainedModel, targets: Sequence[str], whole: Sequence[str] = ()) -> None:
    """Check that every target matches a module; PEFT ignores a misspelt one beside a correct one.

    Args:
        model: the base.
        targets: ends of module names.
        whole: fully trained modules, which PEFT does not adapt.

    Raises:
        PlanError: with the targets that match nothing, and similar names.
    """
    names = [name for name, _ in model.named_modules() if name]
    problems = _unmatched("target_modules", targets, names, f"no module of {type(model).__name__}")
    if not problems:
        adapted = [name for name in names if not set(whole).intersection(name.split("."))]
        nothing = f"only fully trained modules ({', '.join(whole)})"
        problems = _unmatched("target_modules", targets, adapted, nothing)
    if problems:
        raise PlanError(problems)


def _check_head(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Refuse to adapt the head of a language model, because TRL's loss reads its weights. Raises `PlanError`.

    If it is tied to the embeddings, merging a change of one would also change the other.
    """
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for name, module in model.named_modules():
        found = next((target for target in targets if is_named(name, target)), None)
        if found is None or not (module is head or (tied and module is embeddings)):
            continue
        reason = "the base ties its head to its embeddings" if tied else "TRL's loss reads the weights of the head"
        what = f"`{found}` cannot be adapted: {reason}"
        end = name.rpartition(".")[2]
        remedy = f', or train it fully with `modules_to_save = ["{end}"]`' if module is head else ""
        raise PlanError(Problem("", what, f"remove it{remedy}", key="peft.target_modules"))


def check_reached(model: PeftModel, targets: Iterable[str] | None) -> None:
    """Check that every target was adapted; a layer may be excluded, or not be in `layers_to_transform`.

    Raises:
        PlanError: naming the first target that was not.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for target in sorted(targets or ()):
        if not any(is_named(name, target) for name in adapted):
            what = f"no module that `{target}` matches is adapted"
            remedy = "remove it, or check `exclude_modules` and `layers_to_transform`"
            raise PlanError(Problem("", what, remedy, key="peft.target_modules"))


def expert_notes(model: PeftModel) -> tuple[str, ...]:
    """Return a note about experts without an adapter: stored as one tensor for all, they are not layers."""
    config = model.active_peft_config
    if config.is_prompt_learning:
        return ()
    found = set()
    for name, parameter in model.named_parameters():
        parts = [part for part in name.split(".") if part != "base_layer"]
        if _EXPERTS in parts and parameter.ndim == 3:
            found.add(".".join(parts[max(0, parts.index(_EXPERTS) - 1) :]))
    adapted = getattr(config, "target_parameters", None) or ()
    left = sorted(name for name in found if not any(is_named(name, target) for target in adapted))
    if not left:
        return ()
    named = ", ".join(f"`{name}`" for name in left)
    return (f"the experts are not adapted: {named}; LoRA can adapt them through `peft.target_parameters`",)


def fitting(model: PreTrainedModel, targets: Sequence[str], divisor: Divisor, value: int | None) -> int:
    """Return a value that divides the sizes of the adapted layers: the given one, or the largest possible.

    Raises:
        PlanError: if the given value does not, or none does.
    """
    sides = _sides(model, targets, divisor)
    if (chosen := fitting_divisor(sides, divisor, value)) is not None:
        return chosen
    largest = fitting_divisor(sides, divisor, None) or 0
    sizes = ", ".join(map(str, sorted(sides)))
    what = f"the layer sizes ({sizes}) are not divisible by {value or 'a common size'}"
    remedy = f"write {largest}" if largest > 1 else "choose other `target_modules`"
    raise PlanError(Problem("", what, remedy, key=f"peft.{divisor.key}"))


def _sides(model: PreTrainedModel, targets: Sequence[str], divisor: Divisor) -> set[int]:
    """Return the sizes of the adapted layers, on the sides that a value has to divide."""
    found: set[int] = set()
    for name, module in model.named_modules():
        sides: tuple[Any, ...] = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if None in sides:
            sides = tuple(getattr(getattr(module, "weight", None), "shape", ()))
        if len(sides) != 2 or not any(is_named(name, target) for target in targets):
            continue
        inputs, outputs = sides
        found |= {"input": {inputs}, "output": {outputs}, "both": {inputs, outputs}}[divisor.sides]
    return found


_READ_AS = {
    "target_modules": r"(?:{})\Z",
    "exclude_modules": r"(?:{})\Z",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
}
"""Settings that PEFT turns into regular expressions, and their forms; lists of the first two contain name endings."""


_ENDS = ("target_modules", "exclude_modules")


_SHORTER = "write one without repetitions inside repetitions, such as `(a+)+`"


def check_patterns(model: PreTrainedModel, kwargs: Mapping[str, Any], where: str = "") -> None:
    """Try each regular expression on the names that PEFT will match, because PEFT has no time limit.

    Args:
        model: the base.
        kwargs: arguments of a PEFT configuration, new or saved.
        where: the place to name in messages.

    Raises:
        PlanError: naming the first pattern that is invalid or takes too long.
    """
    for key in _READ_AS:
        if not isinstance(kwargs.get(key) or (), (str, list, tuple, set, Mapping)):
            raise PlanError(
                Problem(where, f"peft.{key} is {kwargs[key]!r}", "write a string or a list of module names")
            )
    names = [f"{before}{name}" for name, _ in model.named_modules() for before in ("", "base_model.model.")]
    for key, form in _READ_AS.items():
        value = kwargs.get(key) or ()
        patterns = [value] if isinstance(value, str) else () if key in _ENDS else value
        for pattern in patterns:
            shown = Problem(where, f"`{pattern}`", key=f"peft.{key}")
            _check_pattern(shown, form.replace("{}", str(pattern)), names)


def _check_pattern(shown: Problem, pattern: str, names: Sequence[str]) -> None:
    try:
        bounded(lambda: [re.match(pattern, name) for name in names])
    except (re.error, RecursionError, OverflowError) as error:
        what = f"{shown.what} is not a regular expression: {error}"
        raise PlanError(
            replace(shown, what=what, remedy="write the end of a module name, or a regular expression")
        ) from None
    except OverrunError as error:
        what = f"{shown.what} {error} on the module names"
        raise PlanError(replace(shown, what=what, remedy=_SHORTER)) from None


def check_names(model: PreTrainedModel, method: PeftMethod, targets: Sequence[str]) -> None:
    """Check that the other names of a method match something, too. Raises `PlanError`."""
    if not method.names:
        return
    modules = [name for name, _ in model.named_modules() if name]
    known = {
        "module": modules,
        "parameter": [name for name, _ in model.named_parameters()],
        "adapted layer": [name for name in modules if any(is_named(name, target) for target in targets)],
    }
    problems = [
        problem
        for names in method.names
        for problem in _unmatched(
            names.key,
            getattr(method, names.key),
            known[names.of],
            f"no {names.of}",
            is_matched if names.are_patterns else is_named,
        )
    ]
    if problems:
        raise PlanError(problems)


def adapted_layers(model: PreTrainedModel, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules that the targets match, by name."""
    modules = dict(model.named_modules())
    return {name: module for name, module in modules.items() if any(is_named(name, end) for end in targets)}


def is_named(name: str, end: str) -> bool:
    """True if a module name ends with the given parts."""
    return name == end or name.endswith(f".{end}")


def _unmatched(
    key: str,
    wanted: Iterable[str],
    names: Sequence[str],
    nothing: str,
    is_meant: Callable[[str, str], bool] = is_named,
) -> list[Problem]:
    """Return a problem for each wanted name without a match, with similar names."""
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    problems = []
    for name in wanted:
        if any(is_meant(other, name) for other in names):
            continue
        hint = did_you_mean(name, ends, most=3)
        if not hint:
            hint = question(ends) if len(ends) <= 3 else f"available: {', '.join(ends[:12])}"
        problems.append(Problem("", f"`{name}` matches {nothing}", hint, key=f"peft.{key}"))
    return problems


_RESCALED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings of models that change their logits after the head."""


def is_rescaled(model: Any) -> bool:
    """True if a model changes its logits after the head."""
    settings = model.config.get_text_config()
    return any(getattr(settings, name, None) is not None for name in _RESCALED)
