"""The adapter: put onto a base, saved so that it can be trusted, opened again without a silent gap."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import MissingError, PlanError, Problem, RunError, UsageError
from lora_ns.files.disk import follow_umask
from lora_ns.files.removal import remove
from lora_ns.files.safetensors import FREEDOM, largest_side, read_header
from lora_ns.methods import METHODS, PeftMethod
from lora_ns.methods.lora import MOVE_BASE, READ_ROWS
from lora_ns.model.files import Base
from lora_ns.model.load import whole_modules
from lora_ns.model.malformed import translating
from lora_ns.model.modules import (
    adapted_layers,
    all_norms,
    check_names,
    check_patterns,
    check_reached,
    fitting,
    is_rescaled,
    resolve_targets,
)

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"


UNKNOWN_STEPS = 1000
"""Steps of a run where nobody says how many: only the schedule of AdaLoRA follows from them."""


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
        raise MissingError(Problem("", str(error).strip().splitlines()[0], "`lorans env-check`")) from error
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"{method.tag()} cannot be put onto {type(model).__name__}: {reason}"
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


def make_config(
    model: PreTrainedModel, method: PeftMethod, task_type: str, base: Base, steps: int = UNKNOWN_STEPS
) -> PeftConfig:
    """The method's PEFT configuration, its targets resolved to modules of this model. Raises `PlanError`."""
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
    """What of a configuration names parts of the model, resolved to its modules. Raises `PlanError`."""
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
    """The norms of a model whose family PEFT has no list for; None if it has."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING

    known = model.config.model_type in TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING
    return None if known else all_norms(model, whole)


def _virtual_sizes(model: PreTrainedModel, method: PeftMethod) -> dict[str, int]:
    """The sizes of virtual tokens: PEFT finds them by some families' names, and takes the wrong one of two widths.

    Raises:
        PlanError: if the method is a cache of keys and values, and the model has none.
    """
    config = model.config.get_text_config()
    sizes = {"num_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads}
    if not method.capabilities.key_value_cache:
        return {**sizes, "token_dim": model.get_input_embeddings().embedding_dim}
    parts = (model, model.base_model)
    if not any("past_key_values" in inspect.signature(part.forward).parameters for part in parts):
        what = f"{method.tag()} is a cache of keys and values, which {type(model).__name__} does not take"
        raise PlanError(Problem("", what, "choose another method, such as lora or prompt-tuning", key="peft.method"))
    return {**sizes, "token_dim": config.hidden_size}


def _token_rows(model: PreTrainedModel, method: PeftMethod, task_type: str) -> dict[str, Any]:
    """Where the rows of single tokens are trained: in the embeddings, and for text in the head, tied to them or not.

    Raises:
        PlanError: if the base has no such row.
    """
    rows = method.token_rows
    if rows is None or not (tokens := getattr(method, key := rows.key)):
        return {}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if max(tokens) >= (count := embeddings.weight.shape[0]):
        what = f"{max(tokens)} is no token of the base, which has {count}"
        raise PlanError(Problem("", what, f"write numbers below {count}", key=f"peft.{key}"))
    if task_type != "CAUSAL_LM":
        return {}
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if is_tied and not rows.beside_layers:
        what = "the base ties its embeddings to its head, whose own weights TRL's loss reads"
        raise PlanError(Problem("", what, "write lora with `trainable_token_indices`", key=f"peft.{key}"))
    if is_rescaled(model):
        what = f"{type(model).__name__} does more to its logits than its head, whose rows would be trained"
        raise PlanError(Problem("", what, "choose another base", key=f"peft.{key}"))
    if is_tied or not rows.beside_layers:
        return {}
    names = [name for name, module in model.named_modules() if module in (embeddings, head)]
    return {key: {name: list(tokens) for name in names}}


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


_METHOD_CLASSES = frozenset(method.config_class for method in METHODS.values())


def check_config(folder: Path) -> PeftConfig:
    """The configuration of an adapter of a method that lorans trains, which has PEFT import no other library.

    Raises:
        UsageError: with the file.
    """
    import peft

    file = folder / "adapter_config.json"
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        what = f"not the configuration of an adapter: {str(error).strip().partition(chr(10))[0]}"
        raise UsageError(Problem(str(file), what, "restore it, or train again")) from None
    if type(config).__name__ not in _METHOD_CLASSES:
        what = f"{type(config).__name__}, which is no method of lorans"
        raise UsageError(Problem(str(file), what, "restore it; other adapters load with PEFT, without lorans"))
    if getattr(config, "megatron_config", None):
        raise UsageError(Problem(str(file), "has PEFT import Megatron, which lorans does not use", "restore it"))
    return config


_SIZES = frozenset({"r"}).union(*(method.sizes for method in METHODS.values()))
"""Settings of PEFT's methods that tensors are as large as."""


def _check_sizes(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings that claim a larger adapter than its weights are, before one is made. Raises `UsageError`."""
    largest = largest_side(read_header(file.parent / WEIGHTS, "restore it, or train again")[0])
    for key in sorted(_SIZES & settings.keys()):
        value = settings[key]
        for size in value.values() if isinstance(value, dict) else [value]:
            if isinstance(size, (int, float)) and size > FREEDOM * largest:
                what = f"`{key}` is {size:,}, and no tensor of the adapter has a side longer than {largest:,}"
                raise UsageError(Problem(str(file), what, "restore it, or train again"))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The base with a saved adapter, in evaluation mode.

    Raises:
        UsageError: if a key of the file has no place in the model, or a place stays empty: PEFT only warns of that.
    """
    import peft

    config = check_config(folder)
    with translating(Problem(str(folder), "the adapter cannot be loaded", "train again, or restore the folder")):
        check_patterns(model, config.to_dict(), str(folder / "adapter_config.json"))
        _check_sizes(folder / "adapter_config.json", config.to_dict())
        # PEFT loads virtual tokens for use alone. All else is opened as it was trained, in float32.
        is_whole = not config.is_prompt_learning
        adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=is_whole)
        _unround(adapted, folder)
    check_keys(adapted, folder)
    return adapted.requires_grad_(requires_grad=False).eval()


def _unround(adapted: PeftModel, folder: Path) -> None:
    """Bring what is trained into float32, with the values of the file: some is loaded into the base's type."""
    import torch
    from safetensors.torch import load_file

    rounded = {
        name: value
        for name, value in adapted.named_parameters()
        if value.requires_grad and value.is_floating_point() and value.dtype != torch.float32
    }
    train_in_float32(adapted)
    saved = load_file(folder / WEIGHTS) if rounded else {}
    for name, value in rounded.items():
        exact = saved.get(name.replace(".modules_to_save.default", "").replace(".default", ""))
        if exact is not None:
            value.data.copy_(exact)


def put_in_place(adapted: PeftModel) -> None:
    """Put each module that is trained whole where the base had its own, as merging does.

    PEFT leaves that to its methods: some forget it, and most then look for the weight of a head that has several layers
    and none itself.
    """
    from peft.utils.other import ModulesToSaveWrapper

    model = adapted.get_base_model()
    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    for name, module in wrapped.items():
        trained = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        model.set_submodule(name, trained)


def check_keys(adapted: PeftModel, folder: Path) -> None:
    """Every key of a saved adapter has its place in the model, and every place its key. Raises `UsageError`."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        check_names_saved(folder, set(file.keys()), adapted)


def check_names_saved(folder: Path, saved: set[str], adapted: PeftModel) -> None:
    """Every tensor of an adapter has a place in the model, and every place its tensor. Raises `UsageError`."""
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    missing, extra = sorted(expected - saved), sorted(saved - expected)
    said = [
        *([f"`{missing[0]}` is missing"] if missing else []),
        *([f"`{extra[0]}` has no place in the model"] if extra else []),
    ]
    if said:
        what = f"not an adapter of this base: {', and '.join(said)}"
        raise UsageError(Problem(str(folder / WEIGHTS), what, "restore it, or use the base that it was trained on"))


def adapted_modules(model: PeftModel) -> dict[str, int]:
    """How many modules were adapted, by the last part of their names; none for virtual tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return dict(sorted(Counter(names).items()))


def trainable_parameters(model: PeftModel) -> int:
    """Number of parameters with a gradient; AdaLoRA's counts of ranks, which PEFT keeps as parameters, have none."""
    parameters = (value for name, value in model.named_parameters() if "ranknum" not in name)
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
