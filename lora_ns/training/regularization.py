"""What some methods add to the loss of a training step, beside the loss of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def has_regularization(model: Any) -> bool:
    """Whether the adapter has a term of its own."""
    config = getattr(model, "active_peft_config", None)
    kasa = getattr(config, "kasa_config", None)
    weights = (getattr(config, "orth_reg_weight", 0.0), getattr(kasa, "beta", 0.0), getattr(kasa, "gamma", 0.0))
    return any(weights)


def regularization(model: Any) -> Tensor:
    """The term of KaSA or AdaLoRA, weighted.

    PEFT leaves that of KaSA to who trains, and adds that of AdaLoRA to a loss that the model computes itself; here the
    trainers compute it.
    """
    config = model.active_peft_config
    if getattr(config, "kasa_config", None) is not None:
        term: Tensor = model.base_model._get_kasa_loss()  # what PEFT's documentation tells to call
    else:
        term = config.orth_reg_weight * _distance_from_orthogonal(model)
    return term


def _distance_from_orthogonal(model: Any) -> Tensor:
    """How far the factors of AdaLoRA are from orthogonal ones, on average (arXiv 2303.10512, equation 4)."""
    import torch

    distances = []
    for name, factor in model.named_parameters():
        if factor.requires_grad and (".lora_A." in name or ".lora_B." in name):
            products = factor @ factor.T if ".lora_A." in name else factor.T @ factor
            distances.append(torch.linalg.norm(products - torch.eye(len(products), device=products.device)))
    return torch.stack(distances).mean()
