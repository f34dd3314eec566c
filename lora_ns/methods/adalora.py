"""AdaLoRA: LoRA that allocates its rank among the layers during training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.methods.base import Factors, InputDropout, LayeredMethod
from lora_ns.methods.capabilities import GRADIENTS_ARE_DIVIDED, Capabilities
from lora_ns.methods.tensors import Layer, Shape, two_factors
from lora_ns.table import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Refusal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback


class AdaLora(LayeredMethod):
    """LoRA that moves rank to the layers where it matters, reducing it from `init_r` to `target_r` on average."""

    config_class: ClassVar[str] = "AdaLoraConfig"
    config_file: ClassVar[str] = "tuners/adalora/config.py"
    parents: ClassVar[tuple[tuple[str, str], ...]] = (("tuners/lora/config.py", "LoraConfig"),)
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=GRADIENTS_ARE_DIVIDED,
        fsdp=GRADIENTS_ARE_DIVIDED,
        copied="PEFT trains one adapter of it at a time",
        resume="PEFT does not load checkpoints with reduced ranks into a new adapter",
        typical_learning_rate=1e-3,
        benchmark="rank 32: 0.373 in 19 min and 21.2 GB",
    )
    advice: ClassVar[str] = "for a small parameter budget over unequal layers (Zhang et al. 2023, arXiv 2303.10512)"
    sizes: ClassVar[frozenset[str]] = frozenset({"init_r", "target_r"})
    rank_key: ClassVar[str] = "init_r"
    least_steps: ClassVar[int] = 3  # one to score the ranks, one to reduce them, and one more

    method: Literal["adalora"]
    """AdaLoRA."""
    init_r: PositiveInt = 12
    """Initial rank of every layer."""
    target_r: PositiveInt = 8
    """Average rank of the layers after the reduction."""
    tinit: NonNegativeInt | None = None
    """Steps before the first reduction of ranks; default: a tenth of the run."""
    tfinal: NonNegativeInt | None = None
    """Steps after the last reduction; default: three tenths of the run."""
    deltaT: PositiveInt = 1  # noqa: N815 -- PEFT's name
    """Steps between two reductions."""
    beta1: Fraction = 0.85
    """Decay of the moving average of importance."""
    beta2: Fraction = 0.85
    """Decay of the moving average of uncertainty."""
    orth_reg_weight: NonNegativeFloat = 0.5
    """Weight of the orthogonality term in the loss."""
    lora_alpha: PositiveFloat = 32
    """Scale of the update: it is multiplied by `lora_alpha / rank`."""
    lora_dropout: InputDropout = 0.0

    @property
    def factors(self) -> Factors:
        """The factors before any reduction."""
        return Factors("init_r", self.init_r)

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two factors and the singular values between them."""
        return [*two_factors(layer, self.init_r), (self.init_r, 1)]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The number of ranks that are left."""
        return 4

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """The rank schedule for a number of steps.

        Raises:
            ValueError: if fewer than two steps are left to score and reduce ranks.
        """
        begin = steps // 10 if self.tinit is None else self.tinit
        end = 3 * steps // 10 if self.tfinal is None else self.tfinal
        if begin + end + 1 >= steps:
            raise ValueError(f"of {steps} steps, `tinit = {begin}` and `tfinal = {end}` leave fewer than 2 for ranks")
        return {"tinit": begin, "tfinal": end, "total_step": steps}

    def callbacks(self) -> list[TrainerCallback]:
        """A callback that scores and reduces ranks at each optimizer step, which PEFT leaves to the training loop."""
        import transformers

        class RankAllocation(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
            """Runs before the gradients are cleared."""

            def on_optimizer_step(self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any) -> None:
                model.base_model.update_and_allocate(state.global_step + 1)

        return [RankAllocation()]

    def regularization(self, model: Any) -> Tensor | None:
        """The mean distance of the factors from orthogonality (equation 4), weighted.

        PEFT adds it only to a loss that the model itself computes; here the trainer computes the loss.
        """
        import torch

        if not self.orth_reg_weight:
            return None
        distances = []
        for name, factor in model.named_parameters():
            if factor.requires_grad and (".lora_A." in name or ".lora_B." in name):
                products = factor @ factor.T if ".lora_A." in name else factor.T @ factor
                distances.append(torch.linalg.norm(products - torch.eye(len(products), device=products.device)))
        mean: Tensor = torch.stack(distances).mean()
        return self.orth_reg_weight * mean

    def refused_together(self, strategy: str) -> Iterable[Refusal]:
        """Also refuses DeepSpeed, which flattens the gradients that AdaLoRA needs separately."""
        what = "AdaLoRA scores each rank by its own gradient, and DeepSpeed flattens gradients"
        return (*super().refused_together(strategy), Refusal("peft.method", strategy == "deepspeed", what))
