"""The PEFT configuration of a recipe's method, with its names resolved to modules of the base."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem
from lora_ns.methods import PeftMethod
from lora_ns.model.files import Base
from lora_ns.model.load import whole_modules
from lora_ns.model.modules import (
    adapted_layers,
    all_norms,
    check_names,
    check_patterns,
    fitting,
    is_rescaled,
    resolve_targets,
)

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

UNKNOWN_STEPS = 1000
"""Number of steps if it is unknown; it only affects AdaLoRA's schedule."""


def make_config(
    model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int = UNKNOWN_STEPS
) -> PeftConfig:
    """Create the PEFT configuration, with targets resolved to modules of this model. Raises `PlanError`."""
    import peft

    kwargs: dict[str, Any] = {**method.to_kwargs(), "task_type": task_type}
    check_patterns(model, kwargs)
    if task_type != "CAUSAL_LM":
        whole = [*(kwargs.get("modules_to_save") or []), *whole_modules(model, base)]
        kwargs["modules_to_save"] = list(dict.fromkeys(whole))
    kwargs |= _targets(model, method, kwargs)
    if method.capabilities.virtual_tokens:
        kwargs |= _virtual_sizes(model, method)
    in_gguf = base.gguf_file is not None and not base.has_tokenizer
    kwargs |= method.run_kwargs(steps, str(base.path), str(base.location) if in_gguf else None)
    for divisor in method.divisors:
        kwargs[divisor.key] = fitting(model, kwargs["target_modules"], divisor, kwargs[divisor.key])
    return getattr(peft, method.config_class)(**kwargs)


def _targets(model: PreTrainedModel, method: PeftMethod, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Resolve the configuration's names of model parts to modules. Raises `PlanError`."""
    found: dict[str, Any] = {}
    if kwargs.get("target_modules"):
        found = resolve_targets(model, kwargs, kwargs["task_type"])
    elif method.adapts_norms:
        found = {"target_modules": _norms(model, kwargs.get("modules_to_save") or [])}
    found |= _token_rows(model, method, kwargs["task_type"])
    targets: Any = {**kwargs, **found}.get("target_modules")
    check_names(model, method, targets)
    method.check_layers(adapted_layers(model, targets or ()))
    return found


def _norms(model: PreTrainedModel, whole: Sequence[str]) -> list[str] | None:
    """Return the norms of a model whose family PEFT has no list for; None if it has one."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING

    known = model.config.model_type in TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING
    return None if known else all_norms(model, whole)


def _virtual_sizes(model: PreTrainedModel, method: PeftMethod) -> dict[str, int]:
    """Return the sizes of virtual tokens; PEFT finds them for some families only, and picks the wrong of two widths.

    Raises:
        PlanError: if the method is a key-value cache and the model has none.
    """
    config = model.config.get_text_config()
    sizes = {"num_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads}
    if not method.capabilities.key_value_cache:
        return {**sizes, "token_dim": model.get_input_embeddings().embedding_dim}
    parts = (model, model.base_model)
    if not any("past_key_values" in inspect.signature(part.forward).parameters for part in parts):
        what = f"{method.tag()} is a key-value cache, which {type(model).__name__} does not support"
        raise PlanError(Problem("", what, "choose another method, such as lora or prompt-tuning", key="peft.method"))
    return {**sizes, "token_dim": config.hidden_size}


def _token_rows(model: PreTrainedModel, method: PeftMethod, task_type: str) -> dict[str, Any]:
    """Return the modules whose rows of single tokens are trained: the embeddings, and for text the head, tied or not.

    Raises:
        PlanError: if the base has no such row.
    """
    rows = method.token_rows
    if rows is None or not (tokens := getattr(method, key := rows.key)):
        return {}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if max(tokens) >= (count := embeddings.weight.shape[0]):
        what = f"{max(tokens)} is not a token of the base, which has {count}"
        raise PlanError(Problem("", what, f"write token ids below {count}", key=f"peft.{key}"))
    if task_type != "CAUSAL_LM":
        return {}
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if is_tied and not rows.beside_layers:
        what = "the base ties its embeddings to its head, and TRL's loss reads the head's weights directly"
        raise PlanError(Problem("", what, "write lora with `trainable_token_indices`", key=f"peft.{key}"))
    if is_rescaled(model):
        what = f"{type(model).__name__} rescales the logits of its head, whose rows would be trained"
        raise PlanError(Problem("", what, "choose another base", key=f"peft.{key}"))
    if is_tied or not rows.beside_layers:
        return {}
    names = [name for name, module in model.named_modules() if module in (embeddings, head)]
    return {key: {name: list(tokens) for name in names}}
