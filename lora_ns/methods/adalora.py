"""AdaLoRA: LoRA that divides its rank among the layers while it trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.methods.base import Factors, InputDropout, LayeredMethod
from lora_ns.methods.capabilities import GRADIENTS_ARE_DIVIDED, Capabilities
from lora_ns.table import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Refusal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback


class AdaLora(LayeredMethod):
    """LoRA whose rank moves to the layers where it matters, from `init_r` to `target_r` on average."""

    config_class: ClassVar[str] = "AdaLoraConfig"
    config_file: ClassVar[str] = "tuners/adalora/config.py"
    parents: ClassVar[tuple[tuple[str, str], ...]] = (("tuners/lora/config.py", "LoraConfig"),)
    capabilities: ClassVar[Capabilities] = Capabilities(
        zero3=GRADIENTS_ARE_DIVIDED,
        fsdp=GRADIENTS_ARE_DIVIDED,
        resume="its checkpoints have cut ranks, which PEFT does not load into a new adapter",
        typical_learning_rate=1e-3,
        benchmark="rank 32: 0.373 in 19 min and 21.2 GB",
    )
    advice: ClassVar[str] = "when layers differ and parameters are counted (Zhang et al. 2023, arXiv 2303.10512)"
    sizes: ClassVar[frozenset[str]] = frozenset({"init_r", "target_r"})
    rank_key: ClassVar[str] = "init_r"
    least_steps: ClassVar[int] = 3  # one to weigh the ranks, one to cut them, and one more

    method: Literal["adalora"]
    """AdaLoRA."""
    init_r: PositiveInt = 12
    """Rank of every layer at the beginning."""
    target_r: PositiveInt = 8
    """Rank at the end, on average over the layers."""
    tinit: NonNegativeInt | None = None
    """Steps before ranks are cut; a tenth of the run if absent."""
    tfinal: NonNegativeInt | None = None
    """Steps at the end with the ranks that are left; three tenths of the run if absent."""
    deltaT: PositiveInt = 1  # noqa: N815 -- PEFT's name
    """Steps between two cuts."""
    beta1: Fraction = 0.85
    """Decay of the mean of a rank's importance."""
    beta2: Fraction = 0.85
    """Decay of the mean of its uncertainty."""
    orth_reg_weight: NonNegativeFloat = 0.5
    """Weight of the term in the loss that keeps the factors orthogonal."""
    lora_alpha: PositiveFloat = 32
    """The update is scaled by `lora_alpha / rank`."""
    lora_dropout: InputDropout = 0.0

    @property
    def factors(self) -> Factors:
        """As it begins."""
        return Factors("init_r", self.init_r)

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """The schedule, which follows from the number of steps.

        Raises:
            ValueError: if less than two steps are left to weigh ranks and to cut them.
        """
        begin = steps // 10 if self.tinit is None else self.tinit
        end = 3 * steps // 10 if self.tfinal is None else self.tfinal
        if begin + end + 1 >= steps:
            raise ValueError(f"{begin} steps before ranks are cut and {end} after it leave less than 2 of {steps}")
        return {"tinit": begin, "tfinal": end, "total_step": steps}

    def callbacks(self) -> list[TrainerCallback]:
        """The step that PEFT leaves to who trains: after each optimizer step, ranks are weighed and cut."""
        import transformers

        class RankAllocation(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
            """Called while the gradients are still there."""

            def on_optimizer_step(self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any) -> None:
                model.base_model.update_and_allocate(state.global_step + 1)

        return [RankAllocation()]

    def regularization(self, model: Any) -> Tensor | None:
        """How far the factors are from orthogonal ones, on average (equation 4).

        PEFT adds it to a loss that the model computes itself; here the trainers compute it.
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
        """Beside what no method trains, what needs each gradient by itself."""
        what = "AdaLoRA weighs its ranks by the gradient of each, which DeepSpeed joins with others"
        return (*super().refused_together(strategy), Refusal("peft.method", strategy == "deepspeed", what))
