"""The base model in memory: in a given dtype, quantised or not, with no weight left at random."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import ModelError, Problem
from lora_ns.machine.packages import check_installed
from lora_ns.model.consent import loading_arguments
from lora_ns.model.files import Base
from lora_ns.model.folder import SETTINGS
from lora_ns.model.malformed import translating
from lora_ns.quantizers import QUANTIZATIONS, NoQuantization, Quantization
from lora_ns.quantizers.base import DTYPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_POOLER = "pooler"


_NO_FOLDER = ".no-adapter"


@dataclass(frozen=True)
class Loading:
    """Options for loading a base: the same for training, inference and merging of one run."""

    task_type: str
    dtype: str
    device: str
    attn_implementation: str = "sdpa"
    quantization: Quantization = field(default_factory=NoQuantization)
    trust_remote_code: bool = False
    labels: Sequence[str] = ()
    problem_type: str | None = None
    """Problem type of a text classifier, by transformers' name."""
    added_tokens: Sequence[int] = ()
    """Ids of tokens that the base does not have."""
    divided: bool = False
    """True if the trainer shards the weights across processes and moves them to the device."""


def load_base(base: Base, loading: Loading) -> PreTrainedModel:
    """Load the base; a missing classification head is initialised from the seed.

    On the meta device, no file of weights is opened, and a base that is stored quantised is as it was before.

    Raises:
        ModelError: if the weights do not fit the architecture that the task needs.
        MissingError: if a package is missing.
    """
    import torch
    import transformers

    check_installed(loading.quantization)
    with translating(Problem(str(base.location), "the base cannot be loaded", "fetch it again")):
        model, info = _without_values(base, loading) if loading.device == "meta" else _with_values(base, loading)
    _check_weights(base, model, info, loading)
    if base.gguf:
        model = never_quantised(model)
    for kind in QUANTIZATIONS.values():  # the base may be stored quantised when the recipe's own was not
        kind.settle(model, getattr(torch, loading.dtype))
    make_room(model, loading.added_tokens)
    model.generation_config = transformers.GenerationConfig()
    if loading.quantization.bits is None and not loading.divided:
        model.to(loading.device)
    return model


def _with_values(base: Base, loading: Loading) -> tuple[PreTrainedModel, dict[str, Any]]:
    found: tuple[PreTrainedModel, dict[str, Any]] = _auto_class(loading.task_type).from_pretrained(
        base.path, output_loading_info=True, **_arguments(base, loading)
    )
    return found


def _without_values(base: Base, loading: Loading) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a base by the names and shapes in its files. If it is stored quantised, it is loaded as if it were not."""
    import torch

    check_attention(loading.attn_implementation, base.location)
    head = _head(loading) if loading.task_type != "CAUSAL_LM" else {}
    config = _config(base, loading.trust_remote_code, **head)
    if base.facts.quantization:
        del config.quantization_config
    empty = empty_base(base, loading.task_type, loading.trust_remote_code)
    names = {safetensors: name for name, safetensors in DTYPES.items()}
    state = {
        name: torch.empty(entry["shape"], dtype=getattr(torch, names.get(entry["dtype"], "float32")), device="meta")
        for name, entry in base.tensors.items()
    }
    found: tuple[PreTrainedModel, dict[str, Any]] = type(empty).from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=getattr(torch, loading.dtype),
        attn_implementation=loading.attn_implementation,
        device_map={"": "meta"},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return found


def make_room(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Add rows for new tokens to embeddings and head, set to the mean of all other rows: the same at every load."""
    import torch

    if not tokens:
        return
    matrices = [model.get_input_embeddings(), model.get_output_embeddings()]
    if max(tokens) >= matrices[0].weight.shape[0]:
        model.resize_token_embeddings(max(tokens) + 1, mean_resizing=False)
        matrices = [model.get_input_embeddings(), model.get_output_embeddings()]
    first = min(tokens)
    with torch.no_grad():
        for matrix in matrices:
            if matrix is not None:
                weight = matrix.weight
                weight[first : max(tokens) + 1] = weight[:first].float().mean(0).to(weight.dtype)


def empty_base(base: Base, task_type: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the base without weights on torch's meta device: modules and shapes only.

    Raises:
        ModelError: if transformers does not know the architecture, or does not support it for this task.
    """
    import torch

    auto = _auto_class(task_type)
    code = loading_arguments(base.path, trust_remote_code)
    with translating(Problem(str(base.location), "the base cannot be built", "choose a base for this task")):
        config = _config(base, trust_remote_code)
        if not _is_of_repository(config, auto):
            code.pop("code_revision", None)
        with torch.device("meta"):
            model: PreTrainedModel = auto.from_config(config, **code)
    return model


def _is_of_repository(config: Any, auto: Any) -> bool:
    """True if the model class is in another repository according to the settings."""
    return "--" in str((getattr(config, "auto_map", None) or {}).get(auto.__name__))


def _config(base: Base, trust_remote_code: bool, **changed: Any) -> Any:
    """Load the model's configuration, for a GGUF base without `config.json` from its header. Raises `ModelError`."""
    import transformers

    if base.gguf and not base.has_config:
        if base.gguf.scales_positions:
            what = "transformers does not read the scaling of positions from the header"
            raise ModelError(Problem(str(base.location), what, "put the original model's config.json beside it"))
        changed["gguf_file"] = str(base.location)
    _check_attention_settings(base, base.config)
    code = loading_arguments(base.path, trust_remote_code)
    with translating(Problem(str(base.path / SETTINGS), "cannot be read", "fetch the model again")):
        return transformers.AutoConfig.from_pretrained(base.path, local_files_only=True, **code, **changed)


ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Attention kernels of transformers and its packages; it treats any other name as a repository with code."""


def _check_attention_settings(base: Base, settings: Any) -> None:
    """Refuse unknown kernels in the settings of a base or of its parts. Raises `ModelError`."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_attention_settings(base, value)
        elif "attn_implementation" in key and value is not None:
            check_attention(str(value), base.location)


def check_attention(name: str, where: Path) -> None:
    """Refuse a kernel that would be downloaded and run. Raises `ModelError`."""
    if name not in ATTENTIONS:
        what = f"requests the attention kernel `{name}`, which would run code from another repository"
        raise ModelError(Problem(str(where), what, f"use one of: {', '.join(ATTENTIONS)}"))


def positions(base: Base, trust_remote_code: bool) -> int | None:
    """Return a base's number of positions without loading its weights; None if it is unknown."""
    return _positions(_config(base, trust_remote_code).get_text_config())


def max_positions(model: Any) -> int | None:
    """Return a model's number of positions; None if it is unknown."""
    return _positions(model.config.get_text_config())


def _positions(config: Any) -> int | None:
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found else None


def _auto_class(task_type: str) -> Any:
    import transformers

    classes = {
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    }
    return classes[task_type]


def _arguments(base: Base, loading: Loading) -> dict[str, Any]:
    import torch

    dtype = getattr(torch, loading.dtype)
    check_attention(loading.attn_implementation, base.location)
    _check_attention_settings(base, base.config)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": loading.attn_implementation,
        **loading_arguments(base.path, loading.trust_remote_code),
        "local_files_only": True,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,  # `_check_weights` refuses them, with names and sizes
        # transformers would also apply an adapter in the same folder: let it look for one where there is none.
        "adapter_kwargs": {"subfolder": _NO_FOLDER},
    }
    head = _head(loading) if loading.task_type != "CAUSAL_LM" else {}
    if base.gguf:
        from transformers import GgufConfig

        config = _config(base, loading.trust_remote_code, **head)
        return {
            **arguments,
            "config": config,
            "gguf_file": str(base.location),
            "quantization_config": GgufConfig(dequantize=True),
        }
    if loading.quantization.bits is not None:
        if not base.facts.quantization:
            arguments["quantization_config"] = quantization_settings(base, loading, dtype)
        elif (added := loading.quantization.stored_settings()) is not None:
            arguments["quantization_config"] = added
        arguments["device_map"] = (
            {"": torch.cuda.current_device()} if loading.device == "cuda" else {"": loading.device}
        )
    return arguments | head


def _head(loading: Loading) -> dict[str, Any]:
    """Return the head's part of the configuration: the labels by id, or one score."""
    kind = {"problem_type": loading.problem_type} if loading.task_type == "SEQ_CLS" else {}
    if not loading.labels:
        return {**kind, "num_labels": 1}
    names = dict(enumerate(loading.labels))
    numbers = {name: number for number, name in names.items()}
    return {**kind, "num_labels": len(names), "id2label": names, "label2id": numbers}


def quantization_settings(base: Base, loading: Loading, dtype: torch.dtype) -> Any:
    """Return the quantisation settings; the head, which is trained fully or computes the loss, is not quantised."""
    empty = empty_base(base, loading.task_type, loading.trust_remote_code)
    names = whole_modules(empty, base)
    # Full names: the last part alone is not found in the names of nested layers.
    whole = [name for name, _ in empty.named_modules() if name.rpartition(".")[2] in names]
    return loading.quantization.settings(whole, dtype, loading.divided)


def _check_weights(base: Base, model: PreTrainedModel, info: dict[str, Any], loading: Loading) -> None:
    """Check that no weight is left at its random initialisation, except a new classification head."""
    fresh = (*head_names(model), _POOLER) if loading.task_type != "CAUSAL_LM" else ()
    missing = sorted(key for key in info["missing_keys"] if not any(part in key.split(".") for part in fresh))
    if info["mismatched_keys"]:
        first, stored, wanted = min(info["mismatched_keys"])
        what = f"`{first}` has shape {list(stored)} in the weights, but {list(wanted)} by these settings"
        raise ModelError(Problem(str(_settings_of(base)), what, "use the settings that belong to the weights"))
    if missing:
        kind = base.facts.model_type
        what = f"the weights do not fit {type(model).__name__}: `{missing[0]}` is missing"
        hint = f"this {kind} model may not support {loading.task_type}; choose a base that does"
        raise ModelError(Problem(str(base.path), what, hint))


def _settings_of(base: Base) -> Path:
    return base.path / SETTINGS if base.has_config else base.location


def head_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the modules with weights outside the backbone: the head of a classifier."""
    prefix = model.base_model_prefix
    return tuple(
        name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())
    )


def whole_modules(model: PreTrainedModel, base: Base) -> tuple[str, ...]:
    """Return the modules that are not quantised and that a classifier trains fully: its head, and a new pooler.

    A pooler that the base does not have is initialised at every load, so it must be part of the adapter.
    """
    heads = head_names(model)
    stored = any(_POOLER in name.split(".") for name in base.facts.matrices)
    has_pooler = any(name.rpartition(".")[2] == _POOLER for name, _ in model.named_modules())
    return heads if stored or not has_pooler or _POOLER in heads else (*heads, _POOLER)


def never_quantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return the same weights in a model without any record of the quantisation that they were loaded from.

    transformers stores with a model how its weights were dequantised, and cannot quantise them again when it saves.
    """
    import torch

    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():  # buffers that are not saved are not in the state dict
        owner, _, last = name.rpartition(".")
        setattr(plain.get_submodule(owner), last, buffer)
    plain.tie_weights()
    return plain


@contextlib.contextmanager
def computing(device: str, dtype: str) -> Iterator[None]:
    """Run forward passes outside the trainer under the autocast of training."""
    import torch

    if dtype == "float32":
        yield
        return
    with torch.autocast(device, dtype=getattr(torch, dtype)):
        yield


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest difference of two logits, relative to the largest logit; infinite if the shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-6))


def divergence(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the KL divergence of the predictions of two logits, in nats, as the mean over all positions."""
    import torch

    own, other = (torch.log_softmax(logits.double(), dim=-1) for logits in (expected, found))
    return float((own.exp() * (own - other)).sum(-1).mean().clamp(min=0))
