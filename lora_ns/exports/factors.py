"""The update of each layer as two factors, whichever PEFT method trained it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

Kind = Literal["linear", "transposed", "embedding"]
"""Kinds of layers that LoRA knows: linear, linear with a transposed weight (GPT-2's Conv1D), and embeddings."""

NEGLIGIBLE = 1e-6
"""Share of an update, by its Frobenius norm, that rounding in float32 leaves undetermined."""

MERGED = "export it as a merged model instead: `--to merged`"


@dataclass(frozen=True)
class Factors:
    """The update of a layer as `up @ down`, of shape (outputs, inputs)."""

    kind: Kind
    down: Tensor
    """Shape (rank, inputs)."""
    up: Tensor
    """Shape (outputs, rank)."""

    @property
    def rank(self) -> int:
        """Number of directions."""
        return int(self.down.shape[0])

    def beside(self, other: Factors) -> Factors:
        """The sum of two updates of one layer."""
        import torch

        down, up = torch.cat([self.down, other.down]), torch.cat([self.up, other.up], dim=1)
        return Factors(self.kind, down, up)

    def cut(self, rank: int | None = None, energy: float | None = None) -> tuple[Factors, float]:
        """The best approximation of a rank (Eckart and Young 1936).

        Args:
            rank: the largest rank; None for any.
            energy: the share of the sum of squared singular values to keep; None for all that is not negligible.

        Returns:
            The factors, and the share of the update that is lost, by its Frobenius norm.
        """
        import torch

        left, upper = torch.linalg.qr(self.up.double())
        right, lower = torch.linalg.qr(self.down.double().T)
        u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        kept = _kept(values, NEGLIGIBLE**2 if energy is None else 1 - energy)
        kept = min(kept, rank) if rank is not None else kept
        root = values[:kept].sqrt()
        down, up = (right @ v[:kept].T * root).T, left @ u[:, :kept] * root
        whole = values.square().sum()
        lost = float((values[kept:].square().sum() / whole).sqrt()) if whole else 0.0
        return Factors(self.kind, down.float().contiguous(), up.float().contiguous()), lost

    def padded(self, rank: int) -> Factors:
        """The same update with zeros up to a rank."""
        import torch

        missing = rank - self.rank
        down = torch.nn.functional.pad(self.down, (0, 0, 0, missing))
        return Factors(self.kind, down, torch.nn.functional.pad(self.up, (0, missing)))


def _kept(values: Tensor, dropped: float) -> int:
    """The number of singular values that hold all but a share of the sum of squares."""
    squares = values.square()
    tail = squares.flip(0).cumsum(0).flip(0)
    return int((tail > dropped * squares.sum()).sum())


def factors_of(adapted: PeftModel, stored: nn.Module | None = None) -> dict[str, Factors]:
    """Return the update of each adapted layer, by the name of the layer in the base.

    LoRA's own factors are taken as they are, with their scale in `up`. The update of any other method is what its merge
    adds to the weight, computed in float64.

    Args:
        adapted: the base with its adapter. Quantised layers need LoRA.
        stored: the base as it is stored, if adding the adapter has changed its weights.

    Raises:
        UsageError: names what the adapter changes besides weights of layers that LoRA knows.
    """
    _check_biases(adapted)
    found = {}
    for name, module in _adapted_layers(adapted.get_base_model()).items():
        factors = _own(module) if stored is None else None
        factors = factors or _by_merging(
            name, module, stored.get_submodule(name) if stored else module.get_base_layer()
        )
        if factors is not None:
            found[name] = factors
    return found


def _check_biases(adapted: PeftModel) -> None:
    """Refuse trained biases. Raises `UsageError`."""
    config = adapted.active_peft_config
    biases = [key for key in ("bias", "lora_bias") if getattr(config, key, None) not in {None, False, "none"}]
    if biases:
        raise UsageError(
            Problem("", f"the adapter has trained biases (`{biases[0]}`), which plain LoRA has not", MERGED)
        )


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return the adapted layers by name. Raises `UsageError` for what is no layer of LoRA."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper) and not isinstance(module, ModulesToSaveWrapper):
            raise UsageError(
                Problem("", f"the adapter trains rows of `{name}`, which plain LoRA does not know", MERGED)
            )
        if isinstance(module, ParamWrapper):
            what = f"the adapter changes the tensor `{module.parameter_name}` of `{name}`, which is no layer"
            raise UsageError(Problem("", what, MERGED))
        if isinstance(module, BaseTunerLayer):
            found[name] = module
    return found


def _kind_of(name: str, layer: nn.Module) -> Kind:
    """Return the kind of a layer. Raises `UsageError`."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds: Mapping[type, Kind] = {
        torch.nn.Linear: "linear",
        Conv1D: "transposed",
        torch.nn.Embedding: "embedding",
    }
    for kind, told in kinds.items():
        if isinstance(layer, kind):
            return told
    what = f"the adapter changes `{name}`, a {type(layer).__name__}, which plain LoRA does not know"
    raise UsageError(Problem("", what, MERGED))


def _own(module: Any) -> Factors | None:
    """Return the factors of a layer of LoRA itself; None for its variants, and for other methods."""
    import torch
    from peft.tuners.lora.layer import LoraLayer

    (active,) = module.active_adapters
    if not isinstance(module, LoraLayer) or active in module.lora_variant:
        return None
    kind = _kind_of("", module.get_base_layer())
    if kind == "embedding" and active in module.lora_embedding_A:
        down, up = module.lora_embedding_A[active], module.lora_embedding_B[active]
    elif active in module.lora_A and type(module.lora_A[active]) is torch.nn.Linear:
        down, up = module.lora_A[active].weight, module.lora_B[active].weight
    else:
        return None
    scale = float(module.scaling[active])
    return Factors(kind, down.detach().float().cpu(), up.detach().float().cpu() * scale)


def _by_merging(name: str, module: Any, stored: nn.Module) -> Factors | None:
    """Return what merging adds to the stored weight of a layer; None if that is nothing. Raises `UsageError`."""
    import torch

    kind = _kind_of(name, module.get_base_layer())
    layer = copy.deepcopy(module).double()
    before = {part: value.detach().double().clone() for part, value in stored.named_parameters()}
    with torch.no_grad():
        layer.merge(safe_merge=False, adapter_names=None)
    after = dict(layer.get_base_layer().named_parameters())
    updates = {part: (after[part].detach() - value) for part, value in before.items()}
    changed = [part for part, update in updates.items() if part != "weight" and update.any()]
    if changed:
        raise UsageError(Problem("", f"the adapter changes `{name}.{changed[0]}`, which plain LoRA cannot", MERGED))
    update = updates["weight"] if kind == "linear" else updates["weight"].T
    update = update.cpu()
    identity = torch.eye(min(update.shape), dtype=update.dtype)
    is_wide = update.shape[0] < update.shape[1]
    down, up = (update, identity) if is_wide else (identity, update)
    return Factors(kind, down, up).cut()[0] if update.any() else None


def is_lora(adapted: PeftModel) -> bool:
    """True if all layers have LoRA's own factors, so that the weights of the base are not needed."""
    return all(_own(module) is not None for module in _adapted_layers(adapted.get_base_model()).values())


def whole_modules(adapted: PeftModel) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of the modules that were trained as a whole, such as a classifier's head, by module."""
    from peft.utils.other import ModulesToSaveWrapper

    return {
        name: {
            part: value.detach().float().cpu()
            for part, value in module.modules_to_save[module.active_adapters[0]].state_dict().items()
        }
        for name, module in adapted.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
