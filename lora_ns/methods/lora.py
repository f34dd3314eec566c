"""LoRA, and the methods that divide its rank."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.methods.base import LayeredMethod, ModuleNames
from lora_ns.methods.capabilities import GRADIENTS_ARE_DIVIDED, Capabilities
from lora_ns.table import Fraction, NonNegativeFloat, NonNegativeInt, Pattern, PositiveFloat, PositiveInt

READ_ROWS = frozenset({"corda", "eva", "lora_ga"})
"""Starts that look at the training rows."""


MOVE_BASE = frozenset({"corda", "lora_ga", "olora", "pissa", "pissa_niter_16"})
"""Starts that take off the base weights what the factors begin with."""


class Lora(LayeredMethod):
    """Low-rank adapters beside the linear layers."""

    config_class: ClassVar[str] = "LoraConfig"
    config_file: ClassVar[str] = "tuners/lora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=True,
        typical_learning_rate=2e-4,
        convertible=True,
        vllm=True,
        gptq=True,
        benchmark="rank 32: 0.478 in 16 min and 20.8 GB; rank 64 with `use_rslora`: 0.513",
    )
    advice: ClassVar[str] = (
        "the place to start: rank 16 for text and 8 for labels, on all linear layers (Hu et al. 2021, arXiv 2106.09685)"
    )

    left_out: ClassVar[frozenset[str]] = frozenset(
        {"method", "extra", "loraplus_lr_ratio", "use_lora_fa", "init_samples", "eva_rho", "corda_method"}
        | {"use_kasa", "kasa_beta", "kasa_gamma"}
    )

    method: Literal["lora"]
    """LoRA."""
    lora_r: PositiveInt = 16
    """Rank of the update; if `lora_alpha` is absent too, 8 with 16 for labels, and less of both on a narrow base."""
    lora_alpha: PositiveFloat = 32
    """The update is scaled by `lora_alpha / lora_r`, or by `lora_alpha / sqrt(lora_r)` with `use_rslora`."""
    lora_dropout: Fraction = 0.0
    """Dropout on the input of the adapter."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train."""
    use_rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732); worth it from rank 64."""
    use_dora: bool = False
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353): better at low rank, slower."""
    use_kasa: bool = False
    """KaSA: the base weights' least directions, as many as the rank, are cut off, and what is learned instead has
    singular values of its own (Wang et al. 2024, arXiv 2412.06071). Only PEFT opens what is saved, and cuts again."""
    kasa_beta: NonNegativeFloat = 1e-4
    """Weight of the term in the loss that keeps these singular values small."""
    kasa_gamma: NonNegativeFloat = 1e-3
    """Weight of the term in the loss that keeps the factors orthogonal."""
    init_lora_weights: Literal[
        "default", "corda", "eva", "gaussian", "lora_ga", "mica", "olora", "orthogonal", "pissa", "pissa_niter_16"
    ] = "default"
    """Start of the two factors: `pissa` and `olora` take the base weights' main directions, `pissa_niter_16` about the
    same in less time, `mica` the least ones; `eva` takes those of what the layers see of the training rows, `corda` of
    both together, `lora_ga` of the gradient."""
    init_samples: PositiveInt = 256
    """Training rows that `eva`, `corda` and `lora_ga` look at; of packed ones, as many packed."""
    eva_rho: Annotated[float, Field(ge=1.0)] = 2.0
    """How many times `lora_r` a layer's rank may become with `eva`, which moves ranks; 1 moves none."""
    corda_method: Literal["ipm", "kpm"] = "ipm"
    """`ipm` trains the directions that the rows use most, `kpm` those that they use least, to forget less."""

    rank_pattern: dict[Pattern, PositiveInt] = Field(default={})
    """Ranks of some layers, by the ends of their names or by patterns, such as `{ "down_proj" = 32 }`."""
    alpha_pattern: dict[Pattern, PositiveFloat] = Field(default={})
    """`lora_alpha` of some layers, named like those of `rank_pattern`."""
    exclude_modules: ModuleNames = ()
    """Layers to leave alone, by the ends of their names."""
    target_parameters: ModuleNames = ()
    """Parameters that are no layers, such as the experts of some models: `mlp.experts.gate_up_proj`."""
    trainable_token_indices: tuple[NonNegativeInt, ...] = ()
    """Numbers of tokens whose rows are trained, too: those of the embeddings, and for text those of the head."""
    loraplus_lr_ratio: PositiveFloat | None = None
    """LoRA+: how much higher the second factor's learning rate is, such as 16 (Hayou et al. 2024, arXiv 2402.12354)."""
    use_lora_fa: bool = False
    """LoRA-FA: the first factor stays as it starts, and the second gets the gradient that comes closest to that of the
    whole weight; the optimizer is PEFT's AdamW (Zhang et al. 2023, arXiv 2308.03303)."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        kwargs = super().to_kwargs()
        kwargs["r"] = kwargs.pop("lora_r")
        kwargs["init_lora_weights"] = True if self.init_lora_weights == "default" else self.init_lora_weights
        kwargs["kasa_config"] = {"beta": self.kasa_beta, "gamma": self.kasa_gamma} if self.use_kasa else None
        return {**kwargs, **self._start_kwargs(), **self.extra}

    def _start_kwargs(self) -> dict[str, Any]:
        """The start's own arguments."""
        known: dict[str, dict[str, Any]] = {
            "corda": {"corda_config": {"corda_method": self.corda_method}},
            "eva": {"eva_config": {"rho": self.eva_rho}},
            "lora_ga": {"lora_ga_config": {}},
        }
        return known.get(self.init_lora_weights, {})

    @property
    def reads_rows(self) -> bool:
        """Whether the start looks at the training rows."""
        return self.init_lora_weights in READ_ROWS

    @property
    def moves_base(self) -> bool:
        """Whether the start takes off the base weights what the factors begin with."""
        return self.init_lora_weights in MOVE_BASE

    @property
    def starts_later(self) -> bool:
        """Whether the start is computed once the trainer is there; the adapter is put onto the base plain."""
        return self.reads_rows or self.moves_base


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
    lora_dropout: Fraction = 0.0
    """Dropout on the input of the adapter."""

    def scheduled(self, steps: int) -> dict[str, int]:
        """The arguments that follow from the number of steps.

        Raises:
            ValueError: if less than two steps are left to weigh ranks and to cut them.
        """
        begin = steps // 10 if self.tinit is None else self.tinit
        end = 3 * steps // 10 if self.tfinal is None else self.tfinal
        if begin + end + 1 >= steps:
            raise ValueError(f"{begin} steps before ranks are cut and {end} after it leave less than 2 of {steps}")
        return {"tinit": begin, "tfinal": end, "total_step": steps}
