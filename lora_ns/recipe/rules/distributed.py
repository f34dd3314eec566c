"""Rules between `[distributed]` and the rest of a recipe: what trains in several processes, and what divided."""

from __future__ import annotations

from lora_ns.methods import AdaLora, Lora, PeftMethod, method_name
from lora_ns.recipe.distributed import AutoStrategy, Ddp, DeepSpeed, Fsdp, Processes, Strategy
from lora_ns.recipe.quantization import Bnb4Bit
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.conflict import Finding


def _called(asked: Strategy) -> str:
    return f"ZeRO-{asked.zero_stage}" if isinstance(asked, DeepSpeed) else f'`strategy = "{asked.strategy}"`'


def processes_train_together(recipe: Recipe) -> Finding | None:
    """What has not been shown to give the adapter of one process is left to one process."""
    asked = recipe.distributed
    if not isinstance(asked, Processes) or isinstance(asked, AutoStrategy):
        return None
    if isinstance(asked, Ddp) and asked.num_processes == asked.num_nodes == 1:
        return None
    method = recipe.peft
    lora = method if isinstance(method, Lora) else None
    can, is_zero = method.capabilities.ddp, isinstance(asked, DeepSpeed)
    refused = (
        ("peft.method", can is not True, f"{method_name(method)} trains in one process: {can}"),
        ("peft.use_lora_fa", is_zero and lora is not None and lora.use_lora_fa, _LORA_FA),
        ("peft.method", is_zero and isinstance(method, AdaLora), _ADALORA),
        ("peft.use_kasa", not isinstance(asked, Ddp) and lora is not None and lora.use_kasa, _KASA),
    )
    for key, is_broken, what in refused:
        if is_broken:
            return Finding(("distributed.strategy", key), f"{what}, not with {_called(asked)}", _ONE_PROCESS)
    return None


_LORA_FA = "LoRA-FA's optimizer needs the two factors of a layer side by side, which DeepSpeed joins with others"


_ADALORA = "AdaLoRA weighs its ranks by the gradient of each, which DeepSpeed joins with others"


_KASA = 'KaSA trains in one process or by "ddp" for now'


_ONE_PROCESS = 'change it, or write `strategy = "none"` into `[distributed]`'


def _is_dora(method: PeftMethod) -> bool:
    return isinstance(method, Lora) and method.use_dora


def weights_can_be_divided(recipe: Recipe) -> Finding | None:
    """What needs all the weights in one place is not for strategies that divide them."""
    asked = recipe.distributed
    if not asked.shards:
        return None
    method, base, is_fsdp = recipe.peft, recipe.quantization, isinstance(asked, Fsdp)
    can = method.capabilities.fsdp if is_fsdp else method.capabilities.zero3
    frozen = is_fsdp and isinstance(method, Lora) and (method.use_lora_fa or method.init_lora_weights == "mica")
    rows = (
        ("peft.method", can is not True, f"{method_name(method)} needs whole weights: {can}"),
        ("peft.method", frozen, "factors that are frozen cannot be divided with those that are trained"),
        ("peft.use_dora", _is_dora(method) and base.bits is not None, "DoRA reads packed weights in every step"),
        ("quantization.method", base.bits is not None and not isinstance(base, Bnb4Bit), _ONLY_4_BIT),
        ("peft.init_lora_weights", not is_fsdp and isinstance(method, Lora) and method.starts_later, _STARTS),
        ("model.add_tokens", bool(recipe.model.add_tokens), _TOKEN_ROWS),
        ("peft.trainable_token_indices", bool(getattr(method, "trainable_token_indices", ())), _TOKEN_ROWS),
        ("evaluation.exact_match", recipe.evaluation.exact_match, "answers are written where all weights are"),
        ("model.gguf_file", recipe.model.gguf_file is not None, "a GGUF file is unpacked whole"),
    )
    for key, is_broken, what in rows:
        if is_broken:
            told = f"{what}, and {_called(asked)} divides them"
            return Finding(("distributed.strategy", key), told, 'write "ddp", or "deepspeed" with `zero_stage = 2`')
    return None


_STARTS = "a start that is computed is put onto whole weights"


_TOKEN_ROWS = "rows of single tokens are trained in whole embeddings"


_ONLY_4_BIT = "only weights in full and in 4 bits by bitsandbytes can be divided"


def zero_keys_fit_together(recipe: Recipe) -> Finding | None:
    """What is kept elsewhere is what the stage divides, and has somewhere to be."""
    asked = recipe.distributed
    if not isinstance(asked, DeepSpeed):
        return None
    on_disk = "nvme" in (asked.offload_optimizer, asked.offload_param)
    broken = (
        ("offload_param", asked.offload_param != "none" and not asked.shards, "moves the weights of stage 3 alone"),
        ("offload_optimizer", asked.offload_optimizer == "nvme" and not asked.shards, '"nvme" is for stage 3 alone'),
        ("nvme_path", on_disk and asked.nvme_path is None, 'is missing, and "nvme" asks for it'),
        ("nvme_path", asked.nvme_path is not None and not on_disk, "is not read without an offload to nvme"),
    )
    for key, is_broken, what in broken:
        if is_broken:
            remedy = "write `zero_stage = 3`" if "stage 3" in what else "add it" if "missing" in what else "remove it"
            return Finding((f"distributed.{key}", "distributed.zero_stage"), f"`{key}` {what}", remedy)
    return None


def rows_can_be_divided(recipe: Recipe) -> Finding | None:
    """Rows are divided among processes where that has been shown to give the adapter of one process."""
    parts, method = recipe.distributed.row_parts, recipe.peft
    if parts == 1:
        return None
    extra = recipe.training.extra
    objective, model, lora = recipe.objective, recipe.model, method if isinstance(method, Lora) else None
    rows = (
        ("task_type", not objective.divides_rows, "only rows of `CAUSAL_LM` are", 'write "CAUSAL_LM"'),
        ("distributed.num_nodes", recipe.distributed.nodes > 1, "only among processes of one machine", "write 1"),
        (objective.key("packing"), objective.packs, "a packed row is kept apart by a mask", "write false"),
        (objective.key("neftune_noise_alpha"), objective.noise > 0, "noise is scaled by whole rows", "write 0"),
        ("dataset.streaming", recipe.dataset.streaming, "not those of a stream", "write false"),
        ("peft.method", lora is None, f"only with LoRA, not {method_name(method)}", 'write "lora"'),
        ("peft.init_lora_weights", lora is not None and lora.starts_later, _STARTS_ON_ROWS, 'write "default"'),
        ("model.add_tokens", bool(model.add_tokens), "not with new tokens", "remove it"),
        ("peft.trainable_token_indices", bool(getattr(method, "trainable_token_indices", ())), _ONE_TOKEN, "remove it"),
        ("quantization.method", recipe.quantization.bits is not None and not _is_nf4(recipe), _NF4, 'write "bnb-4bit"'),
        ("model.trust_remote_code", model.trust_remote_code, "not by code of a model's own", "write false"),
        ("model.attn_implementation", model.attn_implementation not in {"auto", "sdpa"}, _SDPA, 'write "sdpa"'),
        (f"training.extra.{next(iter(extra), '')}", bool(extra), "not with keys of `[training.extra]`", "remove it"),
    )
    for key, is_broken, what, remedy in rows:
        if is_broken:
            divided, own = "distributed.context_parallel_size", "`context_parallel_size = 1`"
            return Finding((divided, key), f"rows are divided among {parts} processes: {what}", f"{remedy}, or {own}")
    return None


_STARTS_ON_ROWS = "not with a start that is computed"


_ONE_TOKEN = "not with rows of single tokens"


_NF4 = "only over weights in full or in 4 bits by bitsandbytes"


_SDPA = 'only with "sdpa"'


def _is_nf4(recipe: Recipe) -> bool:
    return isinstance(recipe.quantization, Bnb4Bit)


def machines_can_meet(recipe: Recipe) -> Finding | None:
    """Several machines need a place to meet."""
    asked = recipe.distributed
    if not isinstance(asked, Processes) or asked.num_nodes == 1:
        return None
    if asked.rdzv_endpoint is None:
        what = f"{asked.num_nodes} machines, and nothing says where they meet"
        remedy = 'write `rdzv_endpoint = "10.0.0.1:29500"`, with the address of one of them'
        return Finding(("distributed.num_nodes",), what, remedy)
    return None
