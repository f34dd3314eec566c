"""LoRA, its forms, initialisations and optimizers."""

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
"""Starts that look at the training rows."""


MOVE_BASE = frozenset({"corda", "lora_ga", "olora", "pissa", "pissa_niter_16"})
"""Starts that take off the base weights what the factors begin with."""


DECOMPOSE_AT_ONCE = frozenset({"mica", "orthogonal"})
"""Starts that PEFT computes when it puts the adapter onto the base."""


def dora_works_on_the_base(method: Lora, rest: Rest) -> Conflict | None:
    """DoRA computes with the base weights, which PEFT unpacks for some layers only."""
    if not (method.use_dora and not rest.has_norms):
        return None
    what = f"DoRA needs the norms of the base weights, which PEFT does not unpack from {rest.quantization}"
    return Conflict(("quantization.method", "peft.use_dora"), what, "remove `use_dora`, or take another base")


def start_works_on_the_base(method: Lora, rest: Rest) -> Conflict | None:
    """Starts that decompose the base weights need weights that are not packed into 4 or 8 bits."""
    start, bits = method.init_lora_weights, rest.bits
    row = first_of(
        Refusal(
            "peft.init_lora_weights",
            start == "olora",
            f'what "olora" leaves of a base in {bits} bits does not fit into them: the adapter would not reload',
        ),
        Refusal(
            "peft.init_lora_weights",
            method.moves_base or start in DECOMPOSE_AT_ONCE,
            f'"{start}" cannot decompose a base in {bits} bits',
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
"""Starts that read a key."""


def start_keys_are_read(method: Lora, rest: Rest) -> Conflict | None:
    """The details of a start need the start."""
    for key, starts in _START_OF_KEY.items():
        if key in method.model_fields_set and method.init_lora_weights not in starts:
            named = " or ".join(f'"{start}"' for start in sorted(starts))
            what = f"`{key}` has no effect without `init_lora_weights` = {named}"
            return Conflict((f"peft.{key}",), what, "remove it")
    return None


def start_fits_the_adapter(method: Lora, rest: Rest) -> Conflict | None:
    """What a start does not combine with."""
    start, is_eva = method.init_lora_weights, method.init_lora_weights == "eva"
    rows = '"eva" does not start embeddings, which `{}` adapts'
    odd = next((rank for rank in (method.lora_r, *method.rank_pattern.values()) if rank % 2), 0)
    row = first_of(
        Refusal(
            "peft.target_parameters",
            bool(method.target_parameters) and (method.starts_later or start in DECOMPOSE_AT_ONCE),
            f'"{start}" starts layers, and `target_parameters` are none',
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
            'PEFT has no DoRA of "mica"',
            'write "default"',
        ),
        Refusal(
            "peft.lora_r",
            bool(odd) and start == "orthogonal",
            f'"orthogonal" needs even ranks, and one is {odd}',
            "write even ranks",
        ),
    )
    return row and Conflict((row.key, "peft.init_lora_weights"), row.what, row.remedy)


def one_factor_alone_is_trained(method: Lora, rest: Rest) -> Conflict | None:
    """LoRA-FA is an optimizer of its own, and of the two factors alone."""
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
    """KaSA is a form of the adapter and of the base below it, and PEFT combines it with few others."""
    start, kasa = method.init_lora_weights, "peft.use_kasa"
    if not method.use_kasa:
        inert = next((key for key in ("kasa_beta", "kasa_gamma") if key in method.model_fields_set), None)
        what = f"`{inert}` has no effect without `use_kasa = true`"
        return Conflict((f"peft.{inert}",), what, "add it, or remove this key") if inert else None
    if rest.bits:
        what = f"over a base in {rest.bits} bits PEFT trains a plain LoRA in the place of KaSA"
        return Conflict(("quantization.method", kasa), what, "remove it, or `[quantization]`")
    if start not in {"default", "gaussian"}:
        what = f'"{start}" starts from the whole base weights, and `use_kasa` cuts them'
        return Conflict((kasa, "peft.init_lora_weights"), what, 'write "default" or "gaussian"')
    key = next((key for key in ("use_dora", "use_lora_fa", "target_parameters") if getattr(method, key)), None)
    return _not_together(kasa, f"peft.{key}") if key else None


def _not_together(first: str, second: str) -> Conflict:
    names = (key.rpartition(".")[2] for key in (first, second))
    return Conflict((first, second), "`{}` and `{}` do not go together".format(*names), "remove one of them")


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
        divided_rows=True,
        benchmark="rank 32: 0.478 in 16 min and 20.8 GB; rank 64 with `use_rslora`: 0.513",
    )
    advice: ClassVar[str] = (
        "the place to start: rank 16 for text and 8 for labels, on all linear layers (Hu et al. 2021, arXiv 2106.09685)"
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
    """Rank of the update; if `lora_alpha` is absent too, 8 with 16 for labels, and less of both on a narrow base."""
    lora_alpha: PositiveFloat = 32
    """The update is scaled by `lora_alpha / lora_r`, or by `lora_alpha / sqrt(lora_r)` with `use_rslora`."""
    lora_dropout: InputDropout = 0.0
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

    def rank_of(self, layer: str) -> int:
        """The rank of a layer, by its name."""
        ranks = (rank for pattern, rank in self.rank_pattern.items() if is_matched(layer, pattern))
        return next(ranks, self.lora_r)

    def check_layers(self, layers: Mapping[str, Any]) -> None:
        """KaSA takes linear layers alone, and leaves something of each. Raises `PlanError`."""
        import torch

        if not self.use_kasa:
            return
        found = []
        for name, layer in layers.items():
            if type(layer) is not torch.nn.Linear:
                what = f"`{name}` is of the kind {type(layer).__name__}, and KaSA cuts linear layers alone"
                remedy = "leave it out of `target_modules`, or remove `use_kasa`"
                raise PlanError(Problem("", what, remedy, key="peft.use_kasa"))
            rank = self.rank_of(name)
            found.append((min(layer.weight.shape) - rank, name, rank))
        left, name, rank = min(found, default=(1, "", 0))
        if left < 1:
            what = f"a rank of {rank} leaves nothing of `{name}`, which has {left + rank} directions"
            raise PlanError(Problem("", what, f"write at most {left + rank - 1}", key="peft.use_kasa"))

    @property
    def factors(self) -> Factors:
        """Those of all layers but the ones that patterns name."""
        return Factors("lora_r", self.lora_r, self.lora_alpha, self.use_rslora)

    @property
    def open_rank_keys(self) -> tuple[str, ...]:
        """Rank and scale, each of which is meant with the other one."""
        return () if self.rank_pattern or self.alpha_pattern else ("lora_r", "lora_alpha")

    def with_rank(self, rank: int, alpha: float) -> Lora:
        """With another rank and scale."""
        return self.model_copy(update={"lora_r": rank, "lora_alpha": alpha})

    def count_parameters(self, shapes: Shapes, hidden_size: int, layers: int) -> int | None:
        """Two factors for each weight, and with KaSA their singular values."""
        of_each = 1 if self.use_kasa else 0
        return sum(self.lora_r * (rows + columns + of_each) for rows, columns in shapes) or None

    @property
    def start(self) -> Start | None:
        """A start that is computed from the base's weights or from the training rows."""
        name = self.init_lora_weights
        reads_rows, moves_base = name in READ_ROWS, name in MOVE_BASE
        if not reads_rows and not moves_base:
            return None
        return Start(name, reads_rows, moves_base, self.init_samples, self.eva_rho, self.to_kwargs())

    def plainly_started(self) -> Lora:
        """With factors that change nothing."""
        return self.model_copy(update={"init_lora_weights": "default"})

    def start_memory(self, shapes: Shapes, size: int, on_cpu: bool) -> StartMemory:
        """What PEFT decomposes, and what it decomposes that from."""
        if not shapes:
            return StartMemory()
        largest = max(rows * columns for rows, columns in shapes)
        decomposed = 4 * 4 * largest if self.moves_base else 0  # a weight and its three parts, one layer at a time
        match self.init_lora_weights:
            case "lora_ga":  # the gradient of each weight, in its own type
                gradients = size * sum(rows * columns for rows, columns in shapes)
                return StartMemory(gradients + decomposed, has_backward_pass=True)
            case "corda":  # what the inputs of each layer have in common, and all of their directions before cutting
                common = 4 * sum(columns * columns for _, columns in shapes)
                directions = 4 * sum(min(shape) * sum(shape) for shape in shapes) if on_cpu else 0
                return StartMemory(common + directions + decomposed)
            case "eva":  # the directions of each layer's inputs
                return StartMemory(round(4 * self.lora_r * self.eva_rho * sum(columns for _, columns in shapes)))
        return StartMemory(decomposed)

    def choose_optimizer(self, trainer: Any) -> None:
        """That of LoRA+ or of LoRA-FA.

        LoRA+'s is made when the trainer asks for one, since DeepSpeed's integration takes no other; LoRA-FA's at once,
        since it freezes the first factors.
        """
        if (ratio := self.loraplus_lr_ratio) is not None:
            trainer.own_optimizer = lambda: _loraplus_optimizer(trainer, ratio)
        elif self.use_lora_fa:
            trainer.optimizer = _lorafa_optimizer(trainer, self)

    def regularization(self, model: Any) -> Tensor | None:
        """The term of KaSA, which PEFT leaves to who trains."""
        if not self.use_kasa or not (self.kasa_beta or self.kasa_gamma):
            return None
        term: Tensor = model.base_model._get_kasa_loss()  # what PEFT's documentation tells to call
        return term

    def refused_together(self, strategy: str) -> Iterable[Refusal]:
        """Beside what no method trains, forms of LoRA."""
        fa = "LoRA-FA's optimizer needs the two factors of a layer side by side, which DeepSpeed joins with others"
        kasa = 'KaSA trains in one process or by "ddp" for now'
        return (
            *super().refused_together(strategy),
            Refusal("peft.use_lora_fa", self.use_lora_fa and strategy == "deepspeed", fa),
            Refusal("peft.use_kasa", self.use_kasa and strategy != "ddp", kasa),
        )

    def refused_divided(self, strategy: str, bits: int | None) -> Iterable[Refusal]:
        """Beside what no method trains, forms of LoRA."""
        frozen = strategy == "fsdp" and (self.use_lora_fa or self.init_lora_weights == "mica")
        is_packed = self.use_dora and bits is not None
        return (
            *super().refused_divided(strategy, bits),
            Refusal("peft.method", frozen, "factors that are frozen cannot be divided with those that are trained"),
            Refusal("peft.use_dora", is_packed, "DoRA reads packed weights in every step"),
        )

    def refused_on(self, device: str, quantization: str) -> Iterable[Refusal]:
        """DoRA over bitsandbytes' 8 bits."""
        is_lost = self.use_dora and quantization == "bnb-8bit" and device == "cpu"
        what = "over a base in 8 bits, PEFT loses the scales of the base after a step on a CPU"
        return (Refusal("peft.use_dora", is_lost, what, 'write `method = "bnb-4bit"`, or `use_dora = false`'),)


def is_matched(name: str, pattern: str) -> bool:
    """Whether a module is meant by the end of its name or by a pattern of it, as PEFT reads one."""
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
    """PEFT's AdamW for the second factors; the first ones are frozen here."""
    from peft.optimizers import create_lorafa_optimizer

    args = trainer.args
    optimizer = create_lorafa_optimizer(
        trainer.model, method.lora_r, method.lora_alpha, args.learning_rate, args.weight_decay
    )
    for group in optimizer.param_groups:
        group.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    return optimizer
