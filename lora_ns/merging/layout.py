"""The tensors of a merged model, and the place in base and model that each comes from, by transformers' own code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.stored import DTYPES, Stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter


@dataclass(frozen=True)
class Tensor:
    """A tensor of the merged model."""

    name: str
    """Its name in the files, as `save_pretrained` would write it."""
    shape: tuple[int, ...]
    parameter: str | None
    """The parameter or buffer of the model that it is; None for a part of one, such as an expert."""
    stored: Stored | None
    """Its values in the base; None for a parameter that the base does not have, such as a new head."""
    dtype: str
    """The dtype in which the model has it."""


@dataclass(frozen=True)
class Assembly:
    """A parameter that transformers puts together from several tensors of the base, such as the experts of a layer."""

    converter: WeightConverter
    parts: tuple[tuple[str, str, Stored], ...]
    """Names of the stored tensors, with the converter's pattern for each, in the order of transformers."""

    def convert(self, parameter: str, values: Iterable[Any], model: PreTrainedModel) -> dict[str, Any]:
        """Return the parameters that the values of all parts become, as `from_pretrained` does."""
        converter = deepcopy(self.converter)
        for (name, pattern, _), value in zip(self.parts, values, strict=True):
            converter.add_tensor(parameter, name, pattern, value)
        found = converter.convert(parameter, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}


@dataclass(frozen=True)
class Layout:
    """The tensors of a merged model, in the order of `save_pretrained`, and the assembled parameters of the base."""

    tensors: tuple[Tensor, ...]
    assemblies: Mapping[str, Assembly]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that are parameters or buffers, by their name in the model."""
        return {tensor.parameter: tensor for tensor in self.tensors if tensor.parameter is not None}


def layout(skeleton: PreTrainedModel, stored: Mapping[str, Stored]) -> Layout:
    """Return the tensors that `save_pretrained` would write.

    Args:
        skeleton: the base, loaded onto the meta device, so that it has transformers' record of converted weights.
        stored: the tensors of the base's files.

    Raises:
        WholeModelError: if a tensor is neither a tensor of the base nor a parameter of the model.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(skeleton._keys_to_ignore_on_save or ())
    state = {name: value for name, value in skeleton.state_dict().items() if name not in ignored}
    state = remove_tied_weights_from_state_dict(state, skeleton)
    parameters = {id(value): name for name, value in state.items()}
    sources, assemblies = _sources(skeleton, stored)
    found = []
    for name, value in revert_weight_conversion(skeleton, state).items():
        parameter = parameters.get(id(value))
        if parameter is None and (name not in stored or stored[name].shape != tuple(value.shape)):
            raise WholeModelError(f"transformers converts `{name}` when it loads the base")
        place = stored[name] if parameter is None else sources.get(parameter)
        if place is not None and place.dtype not in DTYPES:
            raise WholeModelError(f"`{name}` is stored in {place.dtype}")
        if place is not None and place.shape != tuple(value.shape):
            raise WholeModelError(f"`{name}` has another shape in the base")
        found.append(Tensor(name, tuple(value.shape), parameter, place, _name(value.dtype)))
    return Layout(tuple(found), assemblies)


def _sources(skeleton: PreTrainedModel, stored: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, Assembly]]:
    """Return the stored tensor of each parameter, and the parts of those that are converted, as transformers does."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(skeleton)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state: dict[str, Any] = skeleton.state_dict()
    prefix = skeleton.base_model_prefix
    found: dict[str, Stored] = {}
    twice = set()
    assemblies: dict[str, Assembly] = {}
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    for name in sorted(stored, key=dot_natural_key):
        place = stored[name]
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if renamed not in state and name in state:
            renamed, pattern = rename_source_key(name, [], [], prefix, state)
        if pattern is None and renamed in state:
            twice |= {renamed} & found.keys()
            found[renamed] = place
        elif pattern is not None and renamed in state:
            before = assemblies.get(renamed)
            parts = (*(before.parts if before else ()), (name, pattern, place))
            assemblies[renamed] = Assembly(by_pattern[pattern], parts)
    if twice:
        raise WholeModelError(f"several tensors of the base are `{min(twice)}`")
    _check_ties(skeleton.all_tied_weights_keys, found)
    return _with_ties(skeleton.all_tied_weights_keys, found), assemblies


def _check_ties(tied: Mapping[str, str], found: Iterable[str]) -> None:
    """Refuse a base that stores a tied weight twice. Raises `WholeModelError`."""
    double = [name for name, source in tied.items() if name in found and source in found]
    if double:
        raise WholeModelError(f"the base stores the tied weight `{min(double)}` twice")


def _with_ties(tied: Mapping[str, str], found: dict[str, Stored]) -> dict[str, Stored]:
    """Add both names of tied weights."""
    pairs = [*tied.items(), *((source, name) for name, source in tied.items())]
    return found | {name: found[other] for name, other in pairs if name not in found and other in found}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
