"""The base model in memory: in a stated type, quantised or not, with no weight left to chance."""

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

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_POOLER = "pooler"


_NO_FOLDER = ".no-adapter"


@dataclass(frozen=True)
class Loading:
    """How a base is loaded: the same for training, inference and merging of one run."""

    task_type: str
    dtype: str
    device: str
    attn_implementation: str = "sdpa"
    quantization: Quantization = field(default_factory=NoQuantization)
    trust_remote_code: bool = False
    labels: Sequence[str] = ()
    problem_type: str | None = None
    """What the labels of a classifier of texts are, by transformers' name."""
    added_tokens: Sequence[int] = ()
    """Numbers of tokens that the base does not have."""
    divided: bool = False
    """Whether the trainer divides the weights among processes, and brings them to where they are computed with."""


def load_base(base: Base, loading: Loading) -> PreTrainedModel:
    """The base with its weights; a classification head that it does not have is made anew, from the seed.

    Raises:
        ModelError: if the weights do not belong to the architecture that the task needs.
        MissingError: if a package is missing.
    """
    import torch
    import transformers

    check_installed(loading.quantization)
    auto = _auto_class(loading.task_type)
    with translating(Problem(str(base.location), "the base cannot be loaded", "fetch it again")):
        model, info = auto.from_pretrained(base.path, output_loading_info=True, **_arguments(base, loading))
    _check_weights(base, model, info, loading)
    if base.gguf:
        model = never_quantised(model)
    for kind in QUANTIZATIONS.values():  # a base may be stored so where the recipe's own was not
        kind.settle(model, getattr(torch, loading.dtype))
    make_room(model, loading.added_tokens)
    model.generation_config = transformers.GenerationConfig()
    if loading.quantization.bits is None and not loading.divided:
        model.to(loading.device)
    return model


def make_room(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Give new tokens rows in the embeddings and the head: the mean of all others, the same whenever it is loaded."""
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
    """The base without its weights: its modules and their shapes, on torch's meta device.

    Raises:
        ModelError: if transformers does not know the architecture, or not for this task.
    """
    import torch

    auto = _auto_class(task_type)
    code = loading_arguments(base.path, trust_remote_code)
    with translating(Problem(str(base.location), "the base cannot be built", "take a base that does this task")):
        config = _config(base, trust_remote_code)
        if not _is_of_repository(config, auto):
            code.pop("code_revision", None)
        with torch.device("meta"):
            model: PreTrainedModel = auto.from_config(config, **code)
    return model


def _is_of_repository(config: Any, auto: Any) -> bool:
    """Whether the settings name the class of a model in another repository."""
    return "--" in str((getattr(config, "auto_map", None) or {}).get(auto.__name__))


def _config(base: Base, trust_remote_code: bool, **changed: Any) -> Any:
    """The model's settings, for a GGUF base without its own read from the header. Raises `ModelError`."""
    import transformers

    if base.gguf and not base.has_config:
        if base.gguf.scales_positions:
            what = "the positions are scaled, which transformers does not read from the header"
            raise ModelError(
                Problem(str(base.location), what, "put config.json of the model that it was made of beside it")
            )
        changed["gguf_file"] = str(base.location)
    _check_attention_settings(base, base.config)
    code = loading_arguments(base.path, trust_remote_code)
    with translating(Problem(str(base.path / SETTINGS), "cannot be read", "fetch the model again")):
        return transformers.AutoConfig.from_pretrained(base.path, local_files_only=True, **code, **changed)


ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""The kernels that transformers and its packages have; it takes any other name for a repository with code."""


def _check_attention_settings(base: Base, settings: Any) -> None:
    """Refuse a kernel that the settings of a base or of one of its parts name. Raises `ModelError`."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_attention_settings(base, value)
        elif "attn_implementation" in key and value is not None:
            check_attention(str(value), base.location)


def check_attention(name: str, where: Path) -> None:
    """Refuse a kernel that would be fetched and run. Raises `ModelError`."""
    if name not in ATTENTIONS:
        what = f"asks for the attention kernel `{name}`, which would be code of another repository"
        raise ModelError(Problem(str(where), what, f"one of: {', '.join(ATTENTIONS)}"))


def positions(base: Base, trust_remote_code: bool) -> int | None:
    """Positions that a base has, without its weights; None if it does not say."""
    return _positions(_config(base, trust_remote_code).get_text_config())


def max_positions(model: Any) -> int | None:
    """Positions that a model has; None if it does not say."""
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
        "ignore_mismatched_sizes": True,  # they are refused with their names and sizes
        # An adapter that is in the folder, too, would be put onto the base: it is looked for where there is none.
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
            arguments["quantization_config"] = _quantization_config(base, loading, dtype)
        elif (added := loading.quantization.stored_settings()) is not None:
            arguments["quantization_config"] = added
        arguments["device_map"] = (
            {"": torch.cuda.current_device()} if loading.device == "cuda" else {"": loading.device}
        )
    return arguments | head


def _head(loading: Loading) -> dict[str, Any]:
    """What the configuration says of the head: the labels by their numbers, or that it gives one score."""
    kind = {"problem_type": loading.problem_type} if loading.task_type == "SEQ_CLS" else {}
    if not loading.labels:
        return {**kind, "num_labels": 1}
    names = dict(enumerate(loading.labels))
    numbers = {name: number for number, name in names.items()}
    return {**kind, "num_labels": len(names), "id2label": names, "label2id": numbers}


def _quantization_config(base: Base, loading: Loading, dtype: torch.dtype) -> Any:
    """The settings of who quantises; the head, which is trained whole or gives the loss, stays as it is."""
    empty = empty_base(base, loading.task_type, loading.trust_remote_code)
    names = whole_modules(empty, base)
    # By their full names: the last part alone is not found again in the names of the layers inside.
    whole = [name for name, _ in empty.named_modules() if name.rpartition(".")[2] in names]
    return loading.quantization.settings(whole, dtype, loading.divided)


def _check_weights(base: Base, model: PreTrainedModel, info: dict[str, Any], loading: Loading) -> None:
    """No weight may be left as the random numbers that it was made with, save those of a new classification head."""
    fresh = (*head_names(model), _POOLER) if loading.task_type != "CAUSAL_LM" else ()
    missing = sorted(key for key in info["missing_keys"] if not any(part in key.split(".") for part in fresh))
    if info["mismatched_keys"]:
        first, stored, wanted = min(info["mismatched_keys"])
        what = f"`{first}` is {list(stored)} in the weights, and {list(wanted)} by these settings"
        raise ModelError(Problem(str(_settings_of(base)), what, "take the settings that belong to the weights"))
    if missing:
        kind = base.facts.model_type
        what = f"the weights do not fit {type(model).__name__}: `{missing[0]}` is not among them"
        hint = f"a {kind} model of this kind may not do {loading.task_type}; choose a base that does"
        raise ModelError(Problem(str(base.path), what, hint))


def _settings_of(base: Base) -> Path:
    return base.path / SETTINGS if base.has_config else base.location


def head_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The modules with weights that stand beside the backbone: the head of a classifier."""
    prefix = model.base_model_prefix
    return tuple(
        name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())
    )


def whole_modules(model: PreTrainedModel, base: Base) -> tuple[str, ...]:
    """What is not quantised, and what a classifier trains whole: its head, and a pooler if the base has none.

    Such a pooler is made anew with every loading: what it is has to be in the adapter.
    """
    heads = head_names(model)
    stored = any(_POOLER in name.split(".") for name in base.facts.matrices)
    has_pooler = any(name.rpartition(".")[2] == _POOLER for name, _ in model.named_modules())
    return heads if stored or not has_pooler or _POOLER in heads else (*heads, _POOLER)


def never_quantised(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that knows nothing of the quantisation that they were read from.

    transformers keeps with a model how its weights were unpacked, and cannot pack them again when it saves.
    """
    import torch

    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():  # of which those that no file has are in no state either
        owner, _, last = name.rpartition(".")
        setattr(plain.get_submodule(owner), last, buffer)
    plain.tie_weights()
    return plain


@contextlib.contextmanager
def computing(device: str, dtype: str) -> Iterator[None]:
    """The precision of a forward pass outside the trainer: the same autocast that it trains under."""
    import torch

    if dtype == "float32":
        yield
        return
    with torch.autocast(device, dtype=getattr(torch, dtype)):
        yield


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Largest difference of two logits, relative to the largest one; infinite where their numbers differ."""
    if expected.shape != found.shape:
        return float("inf")
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-6))
