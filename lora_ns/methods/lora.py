"""LoRA with its variants, initialisations and optimizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.errors import PlanError, Problem
from lora_ns.methods.base import (
    Factors,
    InputDropout,
    LayeredMethod,
    ModuleNames,
    Names,
    OwnRule,
    Rest,
    Shapes,
    Start,
    StartMemory,
    TokenRows,
)
from lora_ns.methods.capabilities import Capabilities
from lora_ns.methods.tensors import Layer, Shape, two_factors
from lora_ns.table import (
    Conflict,
    NonNegativeFloat,
    NonNegativeInt,
    Pattern,
    PositiveFloat,
    PositiveInt,
    Refusal,
    first_of,
)

if TYPE_CHECKING:
    from torch import Tensor

READ_ROWS = frozenset({"corda", "eva", "lora_ga"})
"""Initialisations that use training rows."""


MOVE_BASE = frozenset({"corda", "lora_ga", "olora", "pissa", "pissa_niter_16"})
"""Initialisations that subtract the initial update from the base weights."""


DECOMPOSE_AT_ONCE = frozenset({"mica", "orthogonal"})
"""Initialisations that PEFT computes when it adds the adapter."""


def dora_works_on_the_base(method: Lora, rest: Rest) -> Conflict | None:
    """DoRA needs the norms of the base weights, which PEFT can compute only for some quantised layers."""
    if not (method.use_dora and not rest.has_norms):
        return None
    what = f"DoRA needs the norms of the base weights, which PEFT cannot unpack from {rest.quantization}"
    return Conflict(("quantization.method", "peft.use_dora"), what, "remove `use_dora`, or choose another base")


def start_works_on_the_base(method: Lora, rest: Rest) -> Conflict | None:
    """Initialisations that decompose the base weights need an unquantised base."""
    start, bits = method.init_lora_weights, rest.bits
    row = first_of(
        Refusal(
            "peft.init_lora_weights",
            start == "olora",
            f'"olora" changes the base weights to values that {bits} bits cannot store: the adapter would not reload',
        ),
        Refusal(
            "peft.init_lora_weights",
            method.moves_base or start in DECOMPOSE_AT_ONCE,
            f'"{start}" cannot decompose weights of {bits} bits',
        ),
    )
    if not bits or not row:
        return None
    return Conflict(("quantization.method", row.key), row.what, 'write "default" or "eva", or remove `[quantization]`')


_START_OF_KEY = {
    "init_samples": READ_ROWS,
    "eva_rho": frozenset({"eva"}),
    "corda_method": frozenset({"corda"}),
}
"""Initialisations that use a key."""


def start_keys_are_read(method: Lora, rest: Rest) -> Conflict | None:
    """Keys of an initialisation need that initialisation."""
    for key, starts in _START_OF_KEY.items():
        if key in method.model_fields_set and method.init_lora_weights not in starts:
            named = " or ".join(f'"{start}"' for start in sorted(starts))
            what = f"`{key}` has no effect without `init_lora_weights` = {named}"
            return Conflict((f"peft.{key}",), what, "remove it")
    return None


def start_fits_the_adapter(method: Lora, rest: Rest) -> Conflict | None:
    """Settings that an initialisation cannot be combined with."""
    start, is_eva = method.init_lora_weights, method.init_lora_weights == "eva"
    rows = '"eva" does not initialise embeddings, which `{}` trains'
    odd = next((rank for rank in (method.lora_r, *method.rank_pattern.values()) if rank % 2), 0)
    row = first_of(
        Refusal(
            "peft.target_parameters",
            bool(method.target_parameters) and (method.starts_later or start in DECOMPOSE_AT_ONCE),
            f'"{start}" initialises layers only, and `target_parameters` are not layers',
            'write "default"',
        ),
        Refusal(
            "model.add_tokens",
            is_eva and rest.adds_tokens,
            rows.format("add_tokens"),
            'write "lora_ga" or "pissa"',
        ),
        Refusal(
            "peft.trainable_token_indices",
            is_eva and bool(method.trainable_token_indices),
            rows.format("trainable_token_indices"),
            'write "lora_ga" or "pissa"',
        ),
        Refusal(
            "peft.use_dora",
            method.use_dora and start == "mica",
            'PEFT does not combine DoRA with "mica"',
            'write "default"',
        ),
        Refusal(
            "peft.lora_r",
            bool(odd) and start == "orthogonal",
            f'"orthogonal" needs even ranks, not {odd}',
            "write even ranks",
        ),
    )
    return row and Conflict((row.key, "peft.init_lora_weights"), row.what, row.remedy)


def one_factor_alone_is_trained(method: Lora, rest: Rest) -> Conflict | None:
    """LoRA-FA brings its own optimizer, which trains only the second factors."""
    beside = {
        "peft.loraplus_lr_ratio": method.loraplus_lr_ratio is not None,
        "peft.use_dora": method.use_dora,
        "peft.target_parameters": bool(method.target_parameters),
        "peft.trainable_token_indices": bool(method.trainable_token_indices),
        "model.add_tokens": rest.adds_tokens,
        "training.optim": rest.names_optimizer,
    }
    key = next((key for key, is_given in beside.items() if is_given), None)
    return _not_together("peft.use_lora_fa", key) if method.use_lora_fa and key else None


def kasa_cuts_the_base_alone(method: Lora, rest: Rest) -> Conflict | None:
    """KaSA also changes the base weights, and PEFT combines it with few other settings."""
    start, kasa = method.init_lora_weights, "peft.use_kasa"
    if not method.use_kasa:
        inert = next((key for key in ("kasa_beta", "kasa_gamma") if key in method.model_fields_set), None)
        what = f"`{inert}` has no effect without `use_kasa = true`"
        return Conflict((f"peft.{inert}",), what, "add it, or remove this key") if inert else None
    if rest.bits:
        what = f"over weights of {rest.bits} bits, PEFT trains plain LoRA instead of KaSA"
        return Conflict(("quantization.method", kasa), what, "remove it, or `[quantization]`")
    if start not in {"default", "gaussian"}:
        what = f'"{start}" needs the whole base weights, and `use_kasa` truncates them'
        return Conflict((kasa, "peft.init_lora_weights"), what, 'write "default" or "gaussian"')
    key = next((key for key in ("use_dora", "use_lora_fa", "target_parameters") if getattr(method, key)), None)
    return _not_together(kasa, f"peft.{key}") if key else None


def _not_together(first: str, second: str) -> Conflict:
    names = (key.rpartition(".")[2] for key in (first, second))
    return Conflict((first, second), "`{}` and `{}` cannot be combined".format(*names), "remove one of them")


class Lora(LayeredMethod):
    """Low-rank adapters for linear layers."""

    config_class: ClassVar[str] = "LoraConfig"
    config_file: ClassVar[str] = "tuners/lora/config.py"
    capabilities: ClassVar[Capabilities] = Capabilities(
        fsdp=True,
        typical_learning_rate=2e-4,
        convertible=True,
        vllm=True,
        gptq=True,
        divided_rows=True,
        benchmark="rank 32: 0.478 in 16 min and 20.8 GB; rank 64 with `use_rslora`: 0.513",
    )
    advice: ClassVar[str] = (
        "as the default: rank 16 for text and 8 for labels, on all linear layers (Hu et al. 2021, arXiv 2106.09685)"
    )

    rules: ClassVar[tuple[OwnRule, ...]] = (
        dora_works_on_the_base,
        start_works_on_the_base,
        start_keys_are_read,
        start_fits_the_adapter,
        one_factor_alone_is_trained,
        kasa_cuts_the_base_alone,
    )
    names: ClassVar[tuple[Names, ...]] = (
        Names("exclude_modules", "module"),
        Names("target_parameters", "parameter"),
        Names("rank_pattern", "adapted layer", are_patterns=True),
        Names("alpha_pattern", "adapted layer", are_patterns=True),
    )
    sizes: ClassVar[frozenset[str]] = frozenset({"rank_pattern"})
    rank_key: ClassVar[str] = "lora_r"
    token_rows: ClassVar[TokenRows | None] = TokenRows("trainable_token_indices", beside_layers=True)
    left_out: ClassVar[frozenset[str]] = frozenset(
        {"method", "extra", "loraplus_lr_ratio", "use_lora_fa", "init_samples", "eva_rho", "corda_method"}
        | {"use_kasa", "kasa_beta", "kasa_gamma"}
    )

    method: Literal["lora"]
    """LoRA."""
    lora_r: PositiveInt = 16
    """Rank of the update. If `lora_alpha` is absent, too: 8 with 16 for labels, and less of both on a narrow base."""
    lora_alpha: PositiveFloat = 32
    """Scale of the update: `lora_alpha / lora_r`, or `lora_alpha / sqrt(lora_r)` with `use_rslora`."""
    lora_dropout: InputDropout = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train."""
    use_rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732); useful from rank 64."""
    use_dora: bool = False
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353): better at low rank, but slower."""
    use_kasa: bool = False
    """KaSA: remove the smallest singular directions of the base weights, as many as the rank, and train an update with
    its own singular values (Wang et al. 2024, arXiv 2412.06071). Only PEFT loads the adapter, truncating again."""
    kasa_beta: NonNegativeFloat = 1e-4
    """Weight of the loss term that keeps KaSA's singular values small."""
    kasa_gamma: NonNegativeFloat = 1e-3
    """Weight of the loss term that keeps KaSA's factors orthogonal."""
    init_lora_weights: Literal[
        "default", "corda", "eva", "gaussian", "lora_ga", "mica", "olora", "orthogonal", "pissa", "pissa_niter_16"
    ] = "default"
    """Initialisation of the factors: from the largest singular directions of the base weights (`pissa`, `olora`,
    `pissa_niter_16` for a faster approximation), the smallest ones (`mica`), the layer inputs of training rows (`eva`),
    both weights and inputs (`corda`), or gradients (`lora_ga`)."""
    init_samples: PositiveInt = 256
    """Number of training rows for `eva`, `corda` and `lora_ga`; with packing, of packed rows."""
    eva_rho: Annotated[float, Field(ge=1.0)] = 2.0
    """Maximum rank of a layer with `eva`, which redistributes ranks, as a multiple of `lora_r`; 1 keeps them equal."""
    corda_method: Literal["ipm", "kpm"] = "ipm"
    """`ipm` trains the directions that the rows use most, `kpm` those that they use least, to forget less."""

    rank_pattern: dict[Pattern, PositiveInt] = Field(default={})
    """Ranks of some layers, by suffixes of their names or by patterns, such as `{ "down_proj" = 32 }`."""
    alpha_pattern: dict[Pattern, PositiveFloat] = Field(default={})
    """`lora_alpha` of some layers, named as in `rank_pattern`."""
    exclude_modules: ModuleNames = ()
    """Layers to exclude, by suffixes of their names."""
    target_parameters: ModuleNames = ()
    """Parameters to adapt that are not layers, such as the experts of some models: `mlp.experts.gate_up_proj`."""
    trainable_token_indices: tuple[NonNegativeInt, ...] = ()
    """Ids of tokens whose embedding rows, and for text the rows of the head, are trained, too."""
    loraplus_lr_ratio: PositiveFloat | None = None
    """LoRA+: learning-rate ratio of second to first factor, such as 16 (Hayou et al. 2024, arXiv 2402.12354)."""
    use_lora_fa: bool = False
    """LoRA-FA: freeze the first factor, and correct the second's gradient to approximate that of the whole weight. The
    optimizer is PEFT's AdamW (Zhang et al. 2023, arXiv 2308.03303)."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig`."""
        kwargs = super().to_kwargs()
        kwargs["r"] = kwargs.pop("lora_r")
        if float(self.lora_alpha).is_integer():  # as PEFT declares it; Ollama refuses an adapter with 32.0
            kwargs["lora_alpha"] = int(self.lora_alpha)
        kwargs["init_lora_weights"] = True if self.init_lora_weights == "default" else self.init_lora_weights
        kwargs["kasa_config"] = {"beta": self.kasa_beta, "gamma": self.kasa_gamma} if self.use_kasa else None
        return {**kwargs, **self._start_kwargs(), **self.extra}

    def _start_kwargs(self) -> dict[str, Any]:
        """Arguments of `peft.LoraConfig` for the initialisation."""
        known: dict[str, dict[str, Any]] = {
            "corda": {"corda_config": {"corda_method": self.corda_method}},
            "eva": {"eva_config": {"rho": self.eva_rho}},
            "lora_ga": {"lora_ga_config": {}},
        }
        return known.get(self.init_lora_weights, {})

    def rank_of(self, layer: str) -> int:
        """The rank of a layer, by its name."""
        ranks = (rank for pattern, rank in self.rank_pattern.items() if is_matched(layer, pattern))
        return next(ranks, self.lora_r)

    def check_layers(self, layers: Mapping[str, Any]) -> None:
        """Check that KaSA gets linear layers, with a rank below their full rank. Raises `PlanError`."""
        import torch

        if not self.use_kasa:
            return
        found = []
        for name, layer in layers.items():
            if type(layer) is not torch.nn.Linear:
                what = f"`{name}` is of type {type(layer).__name__}, and KaSA supports only linear layers"
                remedy = "remove it from `target_modules`, or remove `use_kasa`"
                raise PlanError(Problem("", what, remedy, key="peft.use_kasa"))
            rank = self.rank_of(name)
            found.append((min(layer.weight.shape) - rank, name, rank))
        left, name, rank = min(found, default=(1, "", 0))
        if left < 1:
            what = f"a rank of {rank} is too high for `{name}`, which has {left + rank} singular directions"
            raise PlanError(Problem("", what, f"write at most {left + rank - 1}", key="peft.use_kasa"))

    @property
    def factors(self) -> Factors:
        """The factors of all layers, except for those in `rank_pattern` and `alpha_pattern`."""
        return Factors("lora_r", self.lora_r, self.lora_alpha, self.use_rslora)

    @property
    def open_rank_keys(self) -> tuple[str, ...]:
        """Rank and scale, which are only chosen together."""
        return () if self.rank_pattern or self.alpha_pattern else ("lora_r", "lora_alpha")

    def with_rank(self, rank: int, alpha: float) -> Lora:
        """A copy with another rank and scale."""
        return self.model_copy(update={"lora_r": rank, "lora_alpha": alpha})

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of two factors (one if the other is frozen), with norms or singular values."""
        rank = self.rank_of(layer.name)
        factors = two_factors(layer, rank)
        more: list[Shape] = [(layer.outputs,)] if self.use_dora else [(rank,)] if self.use_kasa else []
        trained = factors[:1] if self.init_lora_weights == "mica" else factors[1:] if self.use_lora_fa else factors
        return [*trained, *more]

    def frozen_bytes_in(self, layer: Layer) -> int:
        """The factor that is not trained: the second with MiCA, the first with LoRA-FA."""
        side = layer.outputs if self.init_lora_weights == "mica" else layer.inputs if self.use_lora_fa else 0
        return 4 * self.rank_of(layer.name) * layer.count * side

    @property
    def start(self) -> Start | None:
        """An initialisation from the base weights or from training rows."""
        name = self.init_lora_weights
        reads_rows, moves_base = name in READ_ROWS, name in MOVE_BASE
        if not reads_rows and not moves_base:
            return None
        return Start(name, reads_rows, moves_base, self.init_samples, self.eva_rho, self.to_kwargs())

    @property
    def reads_tokens(self) -> bool:
        """True for all of them but LoRA-GA, which needs the gradient of the trainer's loss."""
        return self.reads_rows and self.init_lora_weights != "lora_ga"

    def plainly_started(self) -> Lora:
        """A copy with the default initialisation, which leaves the base's output unchanged."""
        return self.model_copy(update={"init_lora_weights": "default"})

    @property
    def keeps_base(self) -> bool:
        """True if the base answers as it did alone; KaSA has truncated its weights, too."""
        return super().keeps_base and not self.use_kasa

    def start_memory(self, shapes: Shapes, size: int, on_cpu: bool) -> StartMemory:
        """Memory for the matrices that PEFT decomposes and for its decompositions."""
        if not shapes:
            return StartMemory()
        largest = max(rows * columns for rows, columns in shapes)
        decomposed = 4 * 4 * largest if self.moves_base else 0  # a weight and its three parts, one layer at a time
        match self.init_lora_weights:
            case "lora_ga":  # the gradient of each weight, in its dtype
                gradients = size * sum(rows * columns for rows, columns in shapes)
                return StartMemory(gradients + decomposed, has_backward_pass=True)
            case "corda":  # the covariance of each layer's inputs, and all of its directions before truncation
                common = 4 * sum(columns * columns for _, columns in shapes)
                directions = 4 * sum(min(shape) * sum(shape) for shape in shapes) if on_cpu else 0
                return StartMemory(common + directions + decomposed)
            case "eva":  # the directions of each layer's inputs
                return StartMemory(round(4 * self.lora_r * self.eva_rho * sum(columns for _, columns in shapes)))
        return StartMemory(decomposed)

    def choose_optimizer(self, trainer: Any) -> None:
        """Set the optimizer of LoRA+ or LoRA-FA.

        LoRA+'s is created when the trainer requests it, as DeepSpeed's integration requires. LoRA-FA's is created
        immediately, because it freezes the first factors.
        """
        if (ratio := self.loraplus_lr_ratio) is not None:
            trainer.own_optimizer = lambda: _loraplus_optimizer(trainer, ratio)
        elif self.use_lora_fa:
            trainer.optimizer = _lorafa_optimizer(trainer, self)

    def regularization(self, model: Any) -> Tensor | None:
        """The loss term of KaSA, which PEFT leaves to the training loop."""
        if not self.use_kasa or not (self.kasa_beta or self.kasa_gamma):
            return None
        term: Tensor = model.base_model._get_kasa_loss()  # PEFT's documentation says to call this method
        return term

    def refused_together(self, strategy: str) -> Iterable[Refusal]:
        """Also refuses LoRA-FA with DeepSpeed, and KaSA with anything but DDP."""
        fa = "LoRA-FA's optimizer needs the two factors of each layer separately, and DeepSpeed flattens them"
        kasa = 'KaSA trains only in one process or with "ddp"'
        return (
            *super().refused_together(strategy),
            Refusal("peft.use_lora_fa", self.use_lora_fa and strategy == "deepspeed", fa),
            Refusal("peft.use_kasa", self.use_kasa and strategy != "ddp", kasa),
        )

    def refused_divided(self, strategy: str, bits: int | None) -> Iterable[Refusal]:
        """Also refuses frozen factors with FSDP, and DoRA over a quantised base."""
        frozen = strategy == "fsdp" and (self.use_lora_fa or self.init_lora_weights == "mica")
        is_packed = self.use_dora and bits is not None
        return (
            *super().refused_divided(strategy, bits),
            Refusal("peft.method", frozen, "FSDP cannot shard frozen factors together with trained ones"),
            Refusal("peft.use_dora", is_packed, "DoRA reads the packed weights at every step"),
        )

    def refused_with_a_copy(self) -> Iterable[Refusal]:
        """Also refuses LoRA-FA and KaSA."""
        fa = "LoRA-FA's optimizer needs a gradient for the copy too"
        kasa = "the copy would truncate the base weights once more"
        return (
            *super().refused_with_a_copy(),
            Refusal("peft.use_lora_fa", self.use_lora_fa, fa, "remove it"),
            Refusal("peft.use_kasa", self.use_kasa, kasa, "remove it"),
        )

    def refused_on(self, device: str, quantization: str) -> Iterable[Refusal]:
        """Refuses DoRA over an 8-bit base of bitsandbytes on a CPU."""
        is_lost = self.use_dora and quantization == "bnb-8bit" and device == "cpu"
        what = "over an 8-bit base, PEFT loses the scales of the base after a step on a CPU"
        return (Refusal("peft.use_dora", is_lost, what, 'write `method = "bnb-4bit"`, or `use_dora = false`'),)


def is_matched(name: str, pattern: str) -> bool:
    """True if a module name matches a suffix or a pattern, by PEFT's rules."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
    except re.error:
        return False


def _loraplus_optimizer(trainer: Any, ratio: float) -> Any:
    """The recipe's optimizer, with a higher learning rate for the second factors."""
    import transformers
    from peft.optimizers import create_loraplus_optimizer

    kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    rate = settings.pop("lr")
    decay = trainer.args.weight_decay
    return create_loraplus_optimizer(
        trainer.model, kind, lr=rate, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, **settings
    )


def _lorafa_optimizer(trainer: Any, method: Lora) -> Any:
    """PEFT's AdamW for the second factors. Creating it freezes the first ones."""
    from peft.optimizers import create_lorafa_optimizer

    args = trainer.args
    optimizer = create_lorafa_optimizer(
        trainer.model, method.lora_r, method.lora_alpha, args.learning_rate, args.weight_decay
    )
    for group in optimizer.param_groups:
        group.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    return optimizer
