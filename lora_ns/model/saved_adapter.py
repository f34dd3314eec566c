"""A saved adapter, loaded on its base and checked for gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.files.reading import read_json
from lora_ns.files.safetensors import FREEDOM, largest_side, read_header
from lora_ns.methods import METHODS
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.malformed import translating
from lora_ns.model.modules import check_patterns

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn import Parameter
    from transformers import PreTrainedModel

_METHOD_CLASSES = frozenset(method.config_class for method in METHODS.values())


def check_config(folder: Path) -> PeftConfig:
    """Load the configuration of an adapter whose method lorans supports, and which makes PEFT import no other library.

    Raises:
        UsageError: naming the file.
    """
    import peft

    file = folder / "adapter_config.json"
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        what = f"not an adapter configuration: {first_line(error)}"
        raise UsageError(Problem(str(file), what, "restore it, or train again")) from None
    if type(config).__name__ not in _METHOD_CLASSES:
        what = f"{type(config).__name__} is not a method of lorans"
        raise UsageError(Problem(str(file), what, "restore it; other adapters load with PEFT, without lorans"))
    if getattr(config, "megatron_config", None):
        raise UsageError(Problem(str(file), "makes PEFT import Megatron, which lorans does not use", "restore it"))
    return config


_SIZES = frozenset({"r"}).union(*(method.sizes for method in METHODS.values()))
"""Settings of PEFT methods that determine the size of tensors."""


def _check_sizes(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings that claim a larger adapter than its weights, before one is created. Raises `UsageError`."""
    largest = largest_side(read_header(file.parent / WEIGHTS, "restore it, or train again")[0])
    for key in sorted(_SIZES & settings.keys()):
        value = settings[key]
        for size in value.values() if isinstance(value, dict) else [value]:
            if isinstance(size, (int, float)) and size > FREEDOM * largest:
                what = f"`{key}` is {size:,}, but no dimension of the adapter's weights is larger than {largest:,}"
                raise UsageError(Problem(str(file), what, "restore it, or train again"))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Load a saved adapter onto the base, in evaluation mode.

    Raises:
        UsageError: if a key of the file has no place in the model, or the other way round: PEFT only warns of that.
    """
    return load_trainable(model, folder).requires_grad_(requires_grad=False).eval()


def load_trainable(model: PreTrainedModel, folder: Path, *, has_head: bool = True) -> PeftModel:
    """Load a saved adapter onto the base, to be trained further in float32; virtual tokens are loaded frozen.

    Args:
        model: the base.
        folder: folder of the adapter.
        has_head: whether the base has the head of the adapter's task; otherwise PEFT wraps it without one.

    Raises:
        UsageError: as `load_adapter` does.
    """
    import peft

    config = check_config(folder)
    if not has_head:
        config.task_type = None
    with translating(Problem(str(folder), "the adapter cannot be loaded", "train again, or restore the folder")):
        check_patterns(model, config.to_dict(), str(folder / "adapter_config.json"))
        _check_sizes(folder / "adapter_config.json", config.to_dict())
        # PEFT loads virtual tokens for inference only. Everything else is loaded as it was trained, in float32.
        is_whole = not config.is_prompt_learning
        adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=is_whole, config=config)
        trained = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
        _restore_float32(trained, folder)
    check_keys(adapted, folder)
    return adapted


_ALONE = ("alora_invocation_tokens", "layer_replication", "target_parameters", "trainable_token_indices")
"""Settings of LoRA that other adapters on the same model would have to share, or that change the model itself."""


def can_share(folder: Path) -> bool:
    """True if a saved adapter can be one of several on a model: LoRA on its own layers, and modules trained whole."""
    settings = read_json(folder / "adapter_config.json")
    is_lora = settings.get("peft_type") == "LORA" and settings.get("bias", "none") == "none"
    return is_lora and not any(settings.get(name) for name in _ALONE)


def load_beside(adapted: PeftModel, folder: Path, name: str) -> None:
    """Load another saved adapter onto the same model, in float32 as it was trained, without making it active.

    Args:
        adapted: a base with an adapter. Both can be one of several, see `can_share`.
        folder: folder of the other adapter.
        name: its name in the model, which is part of no name of a module.

    Raises:
        UsageError: as `load_adapter` does.
    """
    config = check_config(folder).to_dict()
    with translating(Problem(str(folder), "the adapter cannot be loaded", "train again, or restore the folder")):
        check_patterns(adapted.get_base_model(), config, str(folder / "adapter_config.json"))
        _check_sizes(folder / "adapter_config.json", config)
        adapted.load_adapter(str(folder), name)
        own = {key: value for key, value in adapted.named_parameters() if name in key.split(".")}
        _restore_float32(own, folder, name)
    check_keys(adapted, folder, name)


def put_weights(adapted: PeftModel, folder: Path) -> None:
    """Replace the weights of an adapter by those of a saved one with the same configuration. Raises `UsageError`."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_keys(adapted, folder)
    set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))


def merge_adapters(model: PreTrainedModel, folders: Sequence[Path]) -> PreTrainedModel:
    """Merge saved adapters into an unquantised base, one after the other, in the dtype of the base.

    The state of the random number generators stays, so that whatever is initialised afterwards is as on a base into
    which the adapters were merged before.

    Raises:
        UsageError: as `load_adapter` does.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        for folder in folders:
            adapted = load_trainable(model, folder, has_head=False)
            put_in_place(adapted)
            model = adapted.merge_and_unload(safe_merge=True)
    return model


def _restore_float32(trained: Mapping[str, Parameter], folder: Path, adapter: str = "default") -> None:
    """Convert trained parameters to float32 with the file's values, because some are loaded in the base's dtype."""
    import torch
    from safetensors.torch import load_file

    rounded = {
        name: value for name, value in trained.items() if value.is_floating_point() and value.dtype != torch.float32
    }
    saved = load_file(folder / WEIGHTS) if rounded else {}
    for name, value in rounded.items():
        value.data = value.data.float()
        exact = saved.get(name.replace(f".modules_to_save.{adapter}", "").replace(f".{adapter}", ""))
        if exact is not None:
            value.data.copy_(exact)


def check_keys(adapted: PeftModel, folder: Path, adapter: str = "default") -> None:
    """Check that the keys of a saved adapter and the model's match, in both directions. Raises `UsageError`."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        check_names_saved(folder, set(file.keys()), adapted, adapter)


def check_names_saved(folder: Path, saved: set[str], adapted: PeftModel, adapter: str = "default") -> None:
    """Check that an adapter's tensors and the model's match, in both directions. Raises `UsageError`."""
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(adapted, adapter_name=adapter, save_embedding_layers=False))
    if not saved and not expected:
        what, remedy = "has no weights: the adapter changes nothing", "train again with other `target_modules`"
        raise UsageError(Problem(str(folder / WEIGHTS), what, remedy))
    missing, extra = sorted(expected - saved), sorted(saved - expected)
    differences = [
        *([f"`{missing[0]}` is missing"] if missing else []),
        *([f"`{extra[0]}` has no place in the model"] if extra else []),
    ]
    if differences:
        what = f"not an adapter of this base: {', and '.join(differences)}"
        raise UsageError(Problem(str(folder / WEIGHTS), what, "restore it, or use the base that it was trained on"))


def put_in_place(adapted: PeftModel) -> None:
    """Put each fully trained module in the place of the base's own, as merging does.

    PEFT leaves this to its methods. Some forget it, and most then look for the weight of a head that consists of
    several layers and has none itself.
    """
    from peft.utils.other import ModulesToSaveWrapper

    model = adapted.get_base_model()
    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    for name, module in wrapped.items():
        trained = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        model.set_submodule(name, trained)
