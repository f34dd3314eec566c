"""Rules between `[distributed]` and the rest of a recipe: limits of several processes and of sharding."""

from __future__ import annotations

from lora_ns.recipe.distributed import AutoStrategy, Ddp, DeepSpeed, Fsdp, Processes, Strategy
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Conflict, Refusal, first_of


def _called(strategy: Strategy) -> str:
    return f"ZeRO-{strategy.zero_stage}" if isinstance(strategy, DeepSpeed) else f'`strategy = "{strategy.strategy}"`'


def processes_train_together(recipe: Recipe) -> Conflict | None:
    """Settings that may train a different adapter in several processes than in one are refused."""
    strategy = recipe.distributed
    if not isinstance(strategy, Processes) or isinstance(strategy, AutoStrategy):
        return None
    if isinstance(strategy, Ddp) and strategy.num_processes == strategy.num_nodes == 1:
        return None
    row = first_of(*recipe.peft.refused_together(strategy.strategy))
    return row and Conflict(
        ("distributed.strategy", row.key), f"{row.what}, not with {_called(strategy)}", _ONE_PROCESS
    )


_ONE_PROCESS = 'change it, or write `strategy = "none"` into `[distributed]`'


def weights_can_be_divided(recipe: Recipe) -> Conflict | None:
    """Settings that need whole weights cannot be combined with a strategy that shards them."""
    strategy, method, base = recipe.distributed, recipe.peft, recipe.quantization
    if not strategy.shards:
        return None
    is_later = method.starts_later and not isinstance(strategy, Fsdp)
    row = first_of(
        *method.refused_divided(strategy.strategy, base.bits),
        Refusal("quantization.method", not base.can_be_divided, _ONLY_4_BIT),
        Refusal("peft.init_lora_weights", is_later, "a computed initialisation needs whole weights"),
        Refusal("model.add_tokens", bool(recipe.model.add_tokens), _TOKEN_ROWS),
        Refusal("peft.trainable_token_indices", bool(method.rows_beside_layers), _TOKEN_ROWS),
        Refusal("evaluation.exact_match", recipe.evaluation.exact_match, "generating answers needs whole weights"),
        Refusal("evaluation.while_training", recipe.evaluation.while_training, "asking suites needs whole weights"),
        Refusal("model.gguf_file", recipe.model.gguf_file is not None, "a GGUF file is dequantised to whole weights"),
    )
    return row and Conflict(
        ("distributed.strategy", row.key),
        f"{row.what}, but {_called(strategy)} shards them",
        'write "ddp", or "deepspeed" with `zero_stage = 2`',
    )


_TOKEN_ROWS = "training rows of single tokens needs whole embeddings"


_ONLY_4_BIT = "only unquantised weights and 4-bit weights of bitsandbytes can be sharded"


def zero_keys_fit_together(recipe: Recipe) -> Conflict | None:
    """Offloading fits the ZeRO stage, and offloading to NVMe has a folder."""
    strategy = recipe.distributed
    if not isinstance(strategy, DeepSpeed):
        return None
    on_disk = "nvme" in (strategy.offload_optimizer, strategy.offload_param)
    row = first_of(
        Refusal(
            "distributed.offload_param",
            strategy.offload_param != "none" and not strategy.shards,
            "needs ZeRO stage 3",
            "write `zero_stage = 3`",
        ),
        Refusal(
            "distributed.offload_optimizer",
            strategy.offload_optimizer == "nvme" and not strategy.shards,
            '= "nvme" needs ZeRO stage 3',
            "write `zero_stage = 3`",
        ),
        Refusal(
            "distributed.nvme_path",
            on_disk and strategy.nvme_path is None,
            'is missing, but offloading to "nvme" needs it',
            "add it",
        ),
        Refusal(
            "distributed.nvme_path",
            strategy.nvme_path is not None and not on_disk,
            'has no effect without offloading to "nvme"',
            "remove it",
        ),
    )
    return row and Conflict(
        (row.key, "distributed.zero_stage"), f"`{row.key.rpartition('.')[2]}` {row.what}", row.remedy
    )


def rows_can_be_divided(recipe: Recipe) -> Conflict | None:
    """Context parallelism is limited to settings that were shown to train the same adapter as one process."""
    parts, method = recipe.distributed.row_parts, recipe.peft
    if parts == 1:
        return None
    objective, model, extra = recipe.objective, recipe.model, recipe.training.extra
    needs_lora = f"needs LoRA, not {method.tag()}"
    row = first_of(
        Refusal("task_type", not objective.divides_rows, "needs `CAUSAL_LM`", 'write "CAUSAL_LM"'),
        Refusal("distributed.num_nodes", recipe.distributed.nodes > 1, _ONE_MACHINE, "write 1"),
        Refusal(objective.key("packing"), objective.packs, _PACKED, "write false"),
        Refusal(objective.key("neftune_noise_alpha"), objective.noise > 0, _NOISE, "write 0"),
        Refusal("dataset.streaming", recipe.dataset.streaming, "cannot split rows of a stream", "write false"),
        Refusal("peft.method", not method.capabilities.divided_rows, needs_lora, 'write "lora"'),
        Refusal("peft.init_lora_weights", method.starts_later, _STARTS_ON_ROWS, 'write "default"'),
        Refusal("model.add_tokens", bool(model.add_tokens), "cannot train new tokens", "remove it"),
        Refusal("peft.trainable_token_indices", bool(method.rows_beside_layers), _ONE_TOKEN, "remove it"),
        Refusal("quantization.method", not recipe.quantization.can_be_divided, _NF4, 'write "bnb-4bit"'),
        Refusal("evaluation.while_training", recipe.evaluation.while_training, _ASKING, "write false"),
        Refusal("model.trust_remote_code", model.trust_remote_code, "cannot run a model's own code", "write false"),
        Refusal("model.attn_implementation", model.attn_implementation not in {"auto", "sdpa"}, _SDPA, 'write "sdpa"'),
        Refusal(
            f"training.extra.{next(iter(extra), '')}",
            bool(extra),
            "cannot be combined with `[training.extra]`",
            "remove it",
        ),
    )
    return row and Conflict(
        ("distributed.context_parallel_size", row.key),
        f"`context_parallel_size = {parts}` {row.what}",
        f"{row.remedy}, or `context_parallel_size = 1`",
    )


_ONE_MACHINE = "needs processes on one machine"


_PACKED = "cannot split packed rows, whose documents are separated by a mask"


_NOISE = "does not support noise, which is scaled by whole rows"


_STARTS_ON_ROWS = "cannot compute this initialisation"


_ONE_TOKEN = "cannot train rows of single tokens"


_ASKING = "cannot ask suites between two steps"


_NF4 = "needs unquantised weights or 4-bit weights of bitsandbytes"


_SDPA = 'needs "sdpa"'


def machines_can_meet(recipe: Recipe) -> Conflict | None:
    """Several machines need a rendezvous endpoint."""
    strategy = recipe.distributed
    if not isinstance(strategy, Processes) or strategy.num_nodes == 1:
        return None
    if strategy.rdzv_endpoint is None:
        what = f"{strategy.num_nodes} machines need a rendezvous endpoint"
        remedy = 'write `rdzv_endpoint = "10.0.0.1:29500"`, with the address of one of them'
        return Conflict(("distributed.num_nodes",), what, remedy)
    return None
