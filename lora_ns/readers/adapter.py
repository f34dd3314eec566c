"""An adapter folder as it is on disk: its configuration, its tensors by purpose, and the scale it was trained with."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_file, is_folder, read_json
from lora_ns.files.safetensors import Tensors, is_count, read_header, shortened
from lora_ns.safety.deadline import OverrunError, bounded

PROMPTS = frozenset({"CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"})
"""Types that put virtual tokens before the prompt."""


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


PICKLES = ("adapter_model.bin", "adapter_model.pt")
"""Pickled weights, which can run code when they are opened."""


Kind = Literal[
    "factor",
    "magnitude",
    "factor bias",
    "other factor",
    "token rows",
    "base layer",
    "norm",
    "bias",
    "embedding",
    "other",
]
"""Purpose of a tensor. `other factor` belongs to a variant of LoRA, `base layer` is a copy of a weight of the base."""


SECONDS = 3.0
"""Seconds in which the patterns of a configuration must have been matched with all layers."""


_NAME = re.compile(
    r"(?P<wrapped>(?:(?:module|_orig_mod|_fsdp_wrapped_module|_forward_module)\.)*)"
    r"(?P<prefix>base_model\.model\.)?"
    r"(?P<inside>(?:(?:module|_orig_mod|_fsdp_wrapped_module|_forward_module)\.)*)"
    r"(?P<rest>.+)"
)


_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB])(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)


@dataclass(frozen=True)
class Name:
    """The name of a tensor in its parts."""

    key: str
    wrapper: str
    """Prefix of a wrapper, such as `module.` of DDP or `_orig_mod.` of torch.compile; empty in PEFT's own files."""
    has_prefix: bool
    """True if the name has PEFT's prefix `base_model.model.`."""
    module: str
    """Name of the module in the base, for a factor; otherwise the name without prefixes."""
    kind: Kind
    side: Literal["A", "B", ""] = ""
    adapter: str = ""
    """Name of the adapter in memory, which PEFT leaves out of its files."""


_LONGEST = 1000
"""Maximum length of a tensor's name; a longer one belongs to no model."""


def parse_name(key: str) -> Name:
    """Split the name of a tensor into its parts."""
    found = _NAME.fullmatch(key) if len(key) <= _LONGEST else None
    if found is None:
        return Name(key, "", False, key, "other")
    wrapper, rest, has_prefix = found["wrapped"] + found["inside"], found["rest"], found["prefix"] is not None
    factor = _FACTOR.fullmatch(rest)
    if factor is None:
        return Name(key, wrapper, has_prefix, rest, _kind_of(rest))
    kind: Kind = "factor bias" if factor["leaf"] == "bias" else "factor"
    side: Literal["A", "B"] = "A" if factor["part"].endswith("A") else "B"
    return Name(key, wrapper, has_prefix, factor["module"], kind, side, factor["adapter"] or "")


_OF_OTHERS = frozenset({"lora_down", "lora_mid", "lora_up"})
"""Names of factors in files of other libraries."""


_EMBEDDINGS = frozenset({"embed_out", "embed_tokens", "lm_head", "word_embeddings", "wte"})


def _kind_of(rest: str) -> Kind:
    """Return the purpose of a tensor that is no factor, by its name without prefixes."""
    *_, owner, leaf = ["", *rest.split(".")]
    kinds: Mapping[Kind, bool] = {
        "magnitude": "lora_magnitude_vector" in (owner, leaf),
        "other factor": any(part.startswith("lora_") and part not in _OF_OTHERS for part in (owner, leaf)),
        "token rows": owner == "token_adapter" or leaf.startswith("trainable_tokens"),
        "base layer": owner == "base_layer" and leaf == "weight",
        "norm": "norm" in owner and leaf == "weight",
        "embedding": owner in _EMBEDDINGS and leaf == "weight",
        "bias": leaf == "bias",
    }
    return next((kind for kind, is_it in kinds.items() if is_it), "other")


@dataclass(frozen=True)
class Layer:
    """An adapted layer: its two factors, and the rank and scale by the configuration."""

    module: str
    a: str | None
    """Name of the first factor, of shape (rank, inputs); None if it is missing."""
    b: str | None
    """Name of the second factor, of shape (outputs, rank); None if it is missing."""
    rank: int | None
    """Rank of the stored factors; None if only one is there, or they do not fit together."""
    configured_rank: int
    scale: float
    """Factor with which PEFT adds the product of the factors."""
    experts: int = 1
    """Number of experts whose factors are stored as one tensor."""

    @property
    def kind(self) -> str:
        """Last part of the name that is not a number, such as `q_proj`."""
        return kind_of(self.module)


def kind_of(module: str) -> str:
    """Return the last part of a module's name that is neither a number nor PEFT's `base_layer`."""
    parts = [part for part in module.split(".") if not part.isdecimal() and part != "base_layer"]
    return parts[-1] if parts else module


@dataclass(frozen=True)
class Adapter:
    """An adapter folder. Only the header of its weights is read; `values` reads a tensor."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Tensors
    begin: int
    """Offset of the first tensor's data, in bytes."""
    run: Path | None = None
    """Run directory that the folder belongs to, if any."""
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def config_file(self) -> str:
        """Path of the configuration."""
        return str(self.folder / CONFIG)

    @property
    def weights_file(self) -> Path:
        """Path of the weights."""
        return self.folder / WEIGHTS

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, such as `LORA`."""
        return str(self.config["peft_type"])

    @property
    def is_lora(self) -> bool:
        """True for LoRA with its variants."""
        return self.peft_type == "LORA"

    @property
    def r(self) -> int:
        """Rank in the configuration; PEFT's default if it is absent."""
        return int(self.config.get("r") or 8)

    @property
    def lora_alpha(self) -> float:
        """Alpha in the configuration; PEFT's default if it is absent."""
        value = self.config.get("lora_alpha")
        return float(8 if value is None else value)

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of all tensors, in their parts."""
        return tuple(map(parse_name, self.tensors))

    def of_kind(self, *kinds: Kind) -> tuple[str, ...]:
        """Return the names of the tensors with one of these purposes."""
        return tuple(name.key for name in self.names if name.kind in kinds)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The adapted layers, in the order of their tensors; empty for other methods than LoRA."""
        if not self.is_lora:
            return ()
        if "layers" not in self.cache:
            try:
                self.cache["layers"] = bounded(lambda: tuple(self._layers()), SECONDS)
            except (OverrunError, RecursionError, OverflowError) as error:
                what = f"matching `rank_pattern` and `alpha_pattern` with the layers {error}"
                raise UsageError(Problem(self.config_file, what, "write simpler patterns")) from None
        found: tuple[Layer, ...] = self.cache["layers"]
        return found

    def _layers(self) -> Iterator[Layer]:
        sides: dict[str, dict[str, str]] = {}
        for name in self.names:
            if name.kind == "factor":
                sides.setdefault(name.module, {})[name.side] = name.key
        for module, keys in sides.items():
            a, b = keys.get("A"), keys.get("B")
            rank = self.configured_rank(module)
            stored = self._stored_rank(a, b)
            experts = stored // rank if self.config.get("target_parameters") and stored and stored % rank == 0 else 1
            yield Layer(module, a, b, stored and stored // experts, rank, self.scale(module), experts)

    def _stored_rank(self, a: str | None, b: str | None) -> int | None:
        if a is None or b is None:
            return None
        first, second = self.tensors[a]["shape"], self.tensors[b]["shape"]
        if len(first) < 2 or len(second) < 2 or first[0] != second[1]:
            return None
        return int(first[0])

    def configured_rank(self, module: str) -> int:
        """Return the rank of a module by the configuration, with PEFT's rule for patterns."""
        return max(1, int(self._by_pattern("rank_pattern", module, self.r)))

    def scale(self, module: str) -> float:
        """Return the factor with which PEFT adds the product of a module's factors."""
        alpha = self._by_pattern("alpha_pattern", module, self.lora_alpha)
        rank = self.configured_rank(module)
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def _by_pattern(self, field: str, module: str, default: float) -> float:
        """Return the value of the first pattern that matches a module, as PEFT finds it."""
        if field not in self.cache:
            self.cache[field] = list(_compiled(self.config.get(field) or {}))
        name = _expert_parameter(module)
        return next((value for pattern, value in self.cache[field] if pattern.match(name)), default)

    def values(self, key: str) -> Any:
        """Read a tensor as a NumPy array of float64, whatever dtype it is stored in. Raises `UsageError`."""
        import numpy as np

        entry = self.tensors[key]
        dtype, shape, (start, _) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in _DTYPES:
            what = f"`{key}` is stored as {dtype}, which cannot be read here"
            raise UsageError(Problem(str(self.weights_file), what, "store it in float32 or bfloat16"))
        stored = np.fromfile(
            self.weights_file, _DTYPES[dtype], count=math.prod(shape), offset=self.begin + start
        ).reshape(shape)
        if dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float64)


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"} | {
    "I8": "i1", "U8": "u1", "BOOL": "u1"
}  # fmt: skip


def _compiled(patterns: Mapping[str, float]) -> Iterator[tuple[re.Pattern[str], float]]:
    """Compile patterns by PEFT's rule; one that is no regular expression matches nothing."""
    for pattern, value in patterns.items():
        with contextlib.suppress(re.error):
            yield re.compile(rf"(.*\.)?({pattern})$"), float(value)


def _expert_parameter(module: str) -> str:
    """Return the name of the parameter that PEFT matches patterns with, for experts that are stored as one tensor."""
    if module.endswith(".experts.base_layer"):
        return module.removesuffix(".base_layer") + ".gate_up_proj"
    return f"{module}.down_proj" if module.endswith(".experts") else module


def read_adapter(folder: Path) -> Adapter:
    """Open an adapter folder, or that of a run.

    Raises:
        UsageError: if there is no adapter, its configuration is invalid, or its weights are missing or pickled.
        ModelError: if the weights are damaged.
    """
    if not is_folder(folder):
        raise UsageError(Problem(str(folder), "no such folder", "name a folder with an adapter, or a run"))
    if is_file(folder / "manifest.json") and is_folder(folder / "adapter"):
        folder = folder / "adapter"
    config = _read_config(folder)
    _check_weights(folder)
    tensors, begin = read_header(folder / WEIGHTS, "copy it again, or save the adapter again")
    return Adapter(folder, config, tensors, begin, _run_of(folder))


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    remedy = "restore it: without it, no program knows the scale of the adapter"
    config = read_json(file, UsageError, remedy=remedy, if_missing=f"not an adapter folder, or {remedy}")
    if not isinstance(config, dict):
        raise UsageError(Problem(str(file), "not a JSON object", remedy))
    problems = [
        Problem(str(file), f"`{key}` is {shortened(value)}, not {kind}", remedy)
        for key, (is_right, kind) in {**_KINDS, **(_LORA_KINDS if config.get("peft_type") == "LORA" else {})}.items()
        if not is_right(value := config.get(key))
    ]
    if problems:
        raise UsageError(problems)
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return is_count(value, 1, 2**31)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_table(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_right, value.values()))


_Check = tuple[Callable[[Any], bool], str]


def _or_absent(is_right: Callable[[Any], bool], kind: str) -> _Check:
    return lambda value: value is None or is_right(value), kind


_KINDS: Mapping[str, _Check] = {
    "peft_type": (lambda value: isinstance(value, str) and value != "", "the name of a PEFT method"),
    "modules_to_save": _or_absent(_is_names, "a list of names"),
}


_LORA_KINDS: Mapping[str, _Check] = {
    "r": _or_absent(_is_rank, "a whole number above 0"),
    "lora_alpha": _or_absent(_is_number, "a number"),
    "rank_pattern": _or_absent(lambda value: _is_table(value, _is_rank), "a table of ranks"),
    "alpha_pattern": _or_absent(lambda value: _is_table(value, _is_number), "a table of numbers"),
}
"""Checks of the fields that the scale follows from."""


def _check_weights(folder: Path) -> None:
    """Check that there are weights which can be opened without running code. Raises `UsageError`."""
    if is_file(folder / WEIGHTS):
        return
    for name in PICKLES:
        if is_file(folder / name):
            what = "a pickle, which can run code when it is opened; lorans does not open it"
            remedy = f"if you trust it, load it with PEFT and `save_pretrained` it again, which writes {WEIGHTS}"
            raise UsageError(Problem(str(folder / name), what, remedy))
    raise UsageError(Problem(str(folder), f"an adapter without weights: no {WEIGHTS}", "copy the folder again"))


def _run_of(folder: Path) -> Path | None:
    """Return the run that an adapter or a checkpoint belongs to."""
    places = folder.absolute().parents[:2]
    return next(
        (place for place in places if is_file(place / "manifest.json") and is_file(place / "recipe.toml")), None
    )
