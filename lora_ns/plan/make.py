"""The plan: every number that a run derives from its recipe, the machine, the base and the data, with its origin.

`make_plan` is pure. `lorans plan` prints its result, `lorans train` executes it, the manifest stores it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Literal, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from lora_ns.basemodel import Base, BaseFacts
from lora_ns.errors import PlanError, Problem
from lora_ns.machine import Machine
from lora_ns.memory import MemoryEstimate, estimate, start_memory
from lora_ns.optimizers import OPTIMIZERS
from lora_ns.prequantized import fit_quantization
from lora_ns.processes import (
    choose_strategy,
    count_here,
    count_processes,
    data_parallel_size,
    in_each_process,
    process_problems,
)
from lora_ns.rates import (
    USUAL_SCALE,
    batch_note,
    rank_note,
    rate_note,
    scale_note,
    targets_note,
    usual_rank,
    usual_rate,
)
from lora_ns.recipe.distributed import Processes
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.peft import AdaLora, Ia3, Lora, method_name
from lora_ns.upstream import supports_sdpa

T = TypeVar("T")

DEFAULT_GLOBAL_BATCH = 16
SMALL_MODEL_PARAMETERS = 20_000_000
"""Below this, a model spends its time between the matrix products, and casting to bfloat16 costs more than it saves."""
USABLE_MEMORY = 0.8
"""Share of the free memory that an estimate may claim."""
_WORTH_TELLING = 50_000_000
LARGEST_MICRO_BATCH = {"cuda": 64, "mps": 16, "cpu": 32}


class Derived(BaseModel, Generic[T]):
    """A value and where it came from."""

    model_config = ConfigDict(frozen=True)

    value: T
    origin: Literal["default", "recipe", "accelerate_config", "--set", "computed"]
    why: str = ""


class Plan(BaseModel):
    """Every derived value of a run; None where it depends on data or a base that is not here yet."""

    model_config = ConfigDict(frozen=True)

    device: Derived[str]
    strategy: Derived[str] = Derived[str](value="none", origin="default")
    """How the work is divided among processes."""
    world_size: Derived[int] = Derived[int](value=1, origin="default")
    """Processes that train together."""
    dtype: Derived[str]
    attn_implementation: Derived[str]
    format: Derived[str | None] = Derived[str | None](value=None, origin="computed")
    """How rows are read."""
    train_rows: Derived[int | None]
    eval_rows: Derived[int | None]
    max_seq_length: Derived[int]
    global_batch_size: Derived[int]
    per_device_train_batch_size: Derived[int]
    gradient_accumulation_steps: Derived[int]
    per_device_eval_batch_size: Derived[int]
    gradient_checkpointing: Derived[bool]
    steps_per_epoch: Derived[int | None]
    max_steps: Derived[int | None]
    warmup_steps: Derived[int | None]
    logging_steps: Derived[int | None]
    eval_steps: Derived[int | None]
    save_steps: Derived[int | None]
    learning_rate: Derived[float]
    rank: Derived[int | None] = Derived[int | None](value=None, origin="default")
    """None of methods without one, and in runs of versions whose LoRA had one default."""
    base_parameters: Derived[int | None]
    adapter_parameters: Derived[int | None]
    memory_bytes: Derived[int | None]
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's whole configuration, if it trains."""
    notes: tuple[str, ...] = ()
    """What the user should know before starting."""

    @model_validator(mode="after")
    def _counts(self) -> Plan:
        """Whole numbers are counts: a plan is read again from the manifest of a run, which may be anything."""
        for name, derived in self:
            least = 1 if name in _AT_LEAST_ONE else 0
            if isinstance(derived, Derived) and isinstance(derived.value, int) and derived.value < least:
                raise ValueError(f"`{name}` is {derived.value:,}")
        return self


_AT_LEAST_ONE = frozenset(
    {
        *("world_size", "max_seq_length", "global_batch_size", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "per_device_eval_batch_size", "logging_steps", "eval_steps", "save_steps"),
    }
)
"""What is divided by, or would leave nothing to train on."""


@dataclass(frozen=True)
class DataFacts:
    """What is known of the rows when a plan is made."""

    train_rows: int | None = None
    eval_rows: int | None = None
    longest: int | None = None
    """Tokens of the longest row; None before the rows were tokenised."""
    why: str = ""
    """Where the number of training rows comes from, such as `1,024 rows packed into 210`."""
    notes: tuple[str, ...] = ()
    format: str | None = None
    """How rows are read, such as `question-answer`."""
    format_why: str = ""
    """What shows it, such as the columns."""


@dataclass(frozen=True)
class _Batch:
    micro: Derived[int]
    accumulation: Derived[int]
    total: Derived[int]
    checkpointing: Derived[bool]
    memory: MemoryEstimate | None


def make_plan(loaded: LoadedRecipe, machine: Machine, base: Base | None, data: DataFacts) -> Plan:
    """Derive every number of a run.

    Raises:
        PlanError: with everything that cannot work on this machine, with this base, or with this data.
    """
    facts = base.facts if base else None
    loaded = fit_to_base(loaded, facts)
    loaded, why = _chosen(loaded, machine, facts)
    problems = [
        *_device_problems(loaded, machine),
        *_quantization_problems(loaded, machine, facts),
        *_attention_problems(loaded, facts),
        *_length_problems(loaded, facts),
        *process_problems(loaded, machine),
    ]
    if problems:
        raise PlanError(problems)
    dtype = _dtype(loaded, machine, facts)
    adapter = adapter_parameters(loaded, facts)
    world, here = _world_size(loaded, machine), count_here(loaded.recipe.distributed, machine)
    shares = data_parallel_size(loaded.recipe.distributed, world.value)
    batch = _batch(loaded, machine, facts, dtype.value, data.longest, shares)
    per_epoch = _steps_per_epoch(loaded, data.train_rows, batch, shares)
    steps = _max_steps(loaded, per_epoch.value)
    problems = [*_batch_problems(loaded, data.train_rows, batch, shares), *_warmup_problems(loaded, steps.value)]
    if problems:
        raise PlanError(problems)
    training = loaded.recipe.training
    regular, often = _regular(loaded, per_epoch.value, steps.value)
    return Plan(
        device=Derived(value=machine.accelerator, origin="computed", why=_device_why(machine, here)),
        strategy=_strategy(loaded, why),
        world_size=world,
        dtype=dtype,
        attn_implementation=_attention(loaded, facts),
        format=Derived(value=data.format, origin="computed", why=data.format_why or _UNREAD),
        train_rows=Derived(value=data.train_rows, origin="computed", why=_rows_why(loaded, data)),
        eval_rows=Derived(value=data.eval_rows, origin="computed", why=_eval_why(loaded, data)),
        max_seq_length=_length(loaded),
        global_batch_size=batch.total,
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=batch.accumulation,
        per_device_eval_batch_size=_eval_batch(loaded, batch.micro.value),
        gradient_checkpointing=batch.checkpointing,
        steps_per_epoch=per_epoch,
        max_steps=steps,
        warmup_steps=_warmup(loaded, steps.value),
        logging_steps=_interval(
            loaded, "logging_steps", training.logging_steps, _hundredths(steps.value), "100 rows a run"
        ),
        eval_steps=_interval(loaded, "eval_steps", training.eval_steps, regular, often),
        save_steps=_interval(loaded, "save_steps", training.save_steps, regular, often),
        learning_rate=_learning_rate(loaded, facts),
        rank=_rank(loaded, facts),
        base_parameters=Derived(value=facts.parameters if facts else None, origin="computed", why=_base_why(base)),
        adapter_parameters=Derived(
            value=adapter, origin="computed", why="from the shapes of the base" if adapter else ""
        ),
        memory_bytes=_memory(batch.memory, machine),
        notes=(
            *loaded.notes,
            *data.notes,
            *_notes(loaded, machine, batch, shares, data.train_rows),
            *unusual(loaded, facts, batch.total.value),
        ),
    )


def _written(loaded: LoadedRecipe, key: str, value: T) -> Derived[T]:
    origin: Any = loaded.origin(key)
    return Derived(value=value, origin=origin)


def fit_to_machine(loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe with the strategy that its `auto` stands for on this machine."""
    return _chosen(loaded, machine, facts)[0]


def _strategy(loaded: LoadedRecipe, why: str) -> Derived[str]:
    strategy = loaded.recipe.distributed.strategy
    if not why:
        return _written(loaded, "distributed.strategy", strategy)
    return Derived(value=strategy, origin="computed", why=why)


def _chosen(loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None) -> tuple[LoadedRecipe, str]:
    def fits(candidate: LoadedRecipe) -> bool:
        """One row of the longest, its activations recomputed where that is possible."""
        here = count_here(candidate.recipe.distributed, machine)
        recomputes = loaded.recipe.peft.capabilities.gradient_checkpointing is True
        dtype = _dtype(candidate, machine, facts).value
        tokens = _row_length(candidate, None)
        return _fits(_step_memory(candidate, machine, facts, dtype, tokens, recomputes), machine, here)

    return choose_strategy(loaded, machine, fits)


def _world_size(loaded: LoadedRecipe, machine: Machine) -> Derived[int]:
    asked, count = loaded.recipe.distributed, count_processes(loaded.recipe.distributed, machine)
    if not isinstance(asked, Processes):
        return _written(loaded, "distributed.strategy", count)
    if asked.num_processes == "auto":
        return Derived(value=count, origin="computed", why="one for each GPU")
    if asked.num_nodes > 1:
        why = f"{asked.num_processes} on each of {asked.num_nodes} machines"
        return Derived(value=count, origin="computed", why=why)
    return _written(loaded, "distributed.num_processes", count)


def _device_why(machine: Machine, here: int) -> str:
    if machine.gpus and here > 1:
        return f"{machine.gpus[0].name}, {here} of {len(machine.gpus)}"
    if here > 1:
        return f"{machine.cores} cores, {max(1, machine.cores // here)} for each process, no GPU"
    if machine.gpus:
        more = f", the first of {len(machine.gpus)}" if len(machine.gpus) > 1 else ""
        return f"{machine.gpus[0].name}{more}"
    return f"{machine.cores} cores, no GPU" if machine.accelerator == "cpu" else "Apple GPU"


def _device_problems(loaded: LoadedRecipe, machine: Machine) -> list[Problem]:
    model, device = loaded.recipe.model, machine.accelerator
    problems = _cpu_problems(loaded, device)
    if model.dtype == "float16" and device != "cuda":
        problems.append(
            Problem(
                loaded.where("model.dtype"),
                f'model.dtype: "float16" trains on a CUDA device only, and this is {device}',
                'write "auto"',
            )
        )
    if model.dtype == "bfloat16" and device == "cuda" and not machine.gpus[0].bf16:
        what = f"model.dtype: {machine.gpus[0].name} has no bfloat16"
        problems.append(Problem(loaded.where("model.dtype"), what, 'write "auto" or "float16"'))
    if model.dtype == "bfloat16" and device == "cuda" and loaded.recipe.quantization.method == "awq":
        what = "model.dtype: AWQ's kernels compute no bfloat16 on a GPU"
        problems.append(Problem(loaded.where("model.dtype"), what, 'write "auto" or "float16"'))
    if model.attn_implementation == "flash_attention_2" and device != "cuda":
        what = f'model.attn_implementation: "flash_attention_2" needs a CUDA device, and this is {device}'
        problems.append(Problem(loaded.where("model.attn_implementation"), what, 'write "auto"'))
    optim = loaded.recipe.training.optim
    if OPTIMIZERS[optim].package == "bitsandbytes" and device == "mps":
        what = f'training.optim: "{optim}" is one of bitsandbytes, which does not train on an Apple GPU'
        problems.append(Problem(loaded.where("training.optim"), what, 'write "adamw_torch"'))
    return problems


def _cpu_problems(loaded: LoadedRecipe, device: str) -> list[Problem]:
    """A file of accelerate's asks for the CPU, and a GPU would be taken."""
    cpu = loaded.filled.file.cpu if loaded.filled.file else None
    if cpu is None or device == "cpu":
        return []
    remedy = "`CUDA_VISIBLE_DEVICES= lorans ...` hides it" if device == "cuda" else "remove it"
    return [Problem(cpu.where, f"{cpu.told}, and there is a GPU here", remedy)]


def _quantization_problems(loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None) -> list[Problem]:
    """What does not go with a base of few bits on this device, or with this base."""
    quantization, device = loaded.recipe.quantization, machine.accelerator
    method = loaded.recipe.peft
    by_bitsandbytes = quantization.method.startswith("bnb-")
    if quantization.bits and device == "mps":
        by = "bitsandbytes" if by_bitsandbytes else quantization.method
        what = f"quantization.method: {by} does not train on an Apple GPU"
        return [Problem(loaded.where("quantization.method"), what, "remove `[quantization]`")]
    if by_bitsandbytes and quantization.bits == 8 and device == "cpu" and isinstance(method, Lora) and method.use_dora:
        what = "peft.use_dora: over a base in 8 bits, PEFT loses the scales of the base after a step on a CPU"
        return [Problem(loaded.where("peft.use_dora"), what, 'write `method = "bnb-4bit"`, or `use_dora = false`')]
    works = method.capabilities.quantized_biases
    if by_bitsandbytes and works is not True and facts and facts.has_biases:
        what = (
            f"peft.method: {method_name(method)} does not train over a quantised base whose layers have biases: {works}"
        )
        return [Problem(loaded.where("peft.method"), what, 'write "lora", or remove `[quantization]`')]
    return []


def _lacks_sdpa(facts: BaseFacts | None) -> TypeGuard[BaseFacts]:
    return facts is not None and supports_sdpa(facts.model_type) is False


def _attention_problems(loaded: LoadedRecipe, facts: BaseFacts | None) -> list[Problem]:
    if loaded.recipe.model.attn_implementation != "sdpa" or not _lacks_sdpa(facts):
        return []
    what = f'model.attn_implementation: {facts.model_type} has no "sdpa"'
    return [Problem(loaded.where("model.attn_implementation"), what, 'write "auto" or "eager"')]


def _length_key(loaded: LoadedRecipe) -> str:
    return f"{'sft' if loaded.recipe.task_type == 'CAUSAL_LM' else 'classification'}.max_seq_length"


def fit_to_base(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe as it meets its base: as it is stored, with rows no longer than it reads, and a rank for its width.

    Raises:
        ModelError: if nothing here trains over the base as it is stored.
        RecipeError: if the recipe does not go with how it is stored.
    """
    if facts:
        told = (note for note in facts.notes if note not in loaded.notes)
        loaded = replace(loaded, notes=(*loaded.notes, *told))
    return _fit_rank(_fit_length(fit_quantization(loaded, facts), facts), facts)


def _fit_length(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe, its `max_seq_length` cut to what the base has positions for if the recipe does not name one."""
    key, room = _length_key(loaded), room_for_rows(loaded, facts)
    if loaded.origin(key) != "default" or room is None or not 0 < room < loaded.recipe.max_seq_length:
        return loaded
    table = key.partition(".")[0]
    objective = getattr(loaded.recipe, table).model_copy(update={"max_seq_length": room})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={table: objective}))


def _fit_rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe, with the rank of LoRA that is usual for its task and base if it leaves that open."""
    if not leaves_rank_open(loaded):
        return loaded
    rank = usual_rank(loaded.recipe.task_type, facts.hidden_size if facts else None)
    return with_rank(loaded, rank, USUAL_SCALE * rank)


def leaves_rank_open(loaded: LoadedRecipe) -> bool:
    """Whether a recipe of LoRA says nothing of ranks and scales; who names one of them means it with the other one."""
    peft = loaded.recipe.peft
    if not isinstance(peft, Lora) or peft.rank_pattern or peft.alpha_pattern:
        return False
    return all(loaded.origin(f"peft.{key}") == "default" for key in ("lora_r", "lora_alpha"))


def with_rank(loaded: LoadedRecipe, rank: int, alpha: float) -> LoadedRecipe:
    """The recipe with another rank and scale of LoRA."""
    peft = loaded.recipe.peft.model_copy(update={"lora_r": rank, "lora_alpha": alpha})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"peft": peft}))


def _length(loaded: LoadedRecipe) -> Derived[int]:
    key, value = _length_key(loaded), loaded.recipe.max_seq_length
    objective = getattr(loaded.recipe, key.partition(".")[0])
    if value == type(objective).model_fields["max_seq_length"].default or loaded.origin(key) != "default":
        return _written(loaded, key, value)
    return Derived(value=value, origin="computed", why="the base has no more positions")


def room_for_rows(loaded: LoadedRecipe, facts: BaseFacts | None) -> int | None:
    """Positions that the base has for a row, less the method's own; None if it does not say."""
    if facts is None or facts.max_position_embeddings is None:
        return None
    return facts.max_position_embeddings - _position_offset(facts) - _virtual_tokens(loaded)


def _position_offset(facts: BaseFacts) -> int:
    """RoBERTa's positions begin after the padding index."""
    return 2 if "roberta" in facts.model_type else 0


def _virtual_tokens(loaded: LoadedRecipe) -> int:
    tokens: int = getattr(loaded.recipe.peft, "num_virtual_tokens", 0)
    return tokens


def _length_problems(loaded: LoadedRecipe, facts: BaseFacts | None) -> list[Problem]:
    """A row, with the method's own tokens, has to fit into the positions of the base."""
    room = room_for_rows(loaded, facts)
    if facts is None or facts.max_position_embeddings is None or room is None or loaded.recipe.max_seq_length <= room:
        return []
    key = _length_key(loaded)
    virtual = _virtual_tokens(loaded)
    own = f" less {virtual} virtual tokens" if virtual else ""
    positions = f"the base's {facts.max_position_embeddings - _position_offset(facts)} positions{own}"
    what = f"{key}: {loaded.recipe.max_seq_length} is longer than {positions}"
    return [Problem(loaded.where(key), what, f"write at most {room}")]


def _dtype(loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None) -> Derived[str]:
    if loaded.recipe.model.dtype != "auto":
        return _written(loaded, "model.dtype", loaded.recipe.model.dtype)
    if machine.gpus and loaded.recipe.quantization.method == "awq":
        return Derived(value="float16", origin="computed", why="what AWQ's kernels compute on a GPU")
    if machine.gpus:
        gpu = machine.gpus[0]
        best = "bfloat16" if gpu.bf16 else "float16"
        return Derived(
            value=best, origin="computed", why=f"{gpu.name} {'computes' if gpu.bf16 else 'does not compute'} bfloat16"
        )
    if machine.accelerator == "cpu" and machine.cpu_bf16:
        if facts and facts.parameters < SMALL_MODEL_PARAMETERS:
            return Derived(value="float32", origin="computed", why="the model is too small to gain from bfloat16")
        return Derived(value="bfloat16", origin="computed", why="this processor multiplies bfloat16 matrices")
    return Derived(value="float32", origin="computed", why="no fast bfloat16 on this device")


def _attention(loaded: LoadedRecipe, facts: BaseFacts | None) -> Derived[str]:
    if loaded.recipe.model.attn_implementation == "auto":
        if _lacks_sdpa(facts):
            return Derived(value="eager", origin="computed", why=f"{facts.model_type} has no fused kernel")
        return Derived(value="sdpa", origin="computed", why="PyTorch's own fused kernel")
    return _written(loaded, "model.attn_implementation", loaded.recipe.model.attn_implementation)


def adapter_parameters(loaded: LoadedRecipe, facts: BaseFacts | None) -> int | None:
    """Parameters of the adapter by the shapes in the weight files; None where they do not tell."""
    peft = loaded.recipe.peft
    if facts is None or not facts.hidden_size:
        return None
    if isinstance(peft, Lora):
        shapes = _adapted_shapes(peft, facts)
        of_each = 1 if peft.use_kasa else 0
        return sum(peft.lora_r * (rows + columns + of_each) for rows, columns in shapes) or None
    if isinstance(peft, Ia3):
        return None
    tokens = getattr(peft, "num_virtual_tokens", 0)
    width = facts.hidden_size * (2 * facts.num_hidden_layers if peft.method == "prefix-tuning" else 1)
    return tokens * width or None


def _adapted_shapes(peft: Lora, facts: BaseFacts) -> list[tuple[int, int]]:
    """Shapes of the weights that are adapted."""
    targets = peft.target_modules
    return [
        shape
        for name, shape in facts.matrices.items()
        if (not _is_input_or_output(name) if isinstance(targets, str) else _ends_with_one(name, targets))
    ]


def _is_input_or_output(name: str) -> bool:
    return any(
        part in name for part in ("embed", "lm_head", "wte", "wpe", "classifier", "score", "pooler", "predictions")
    )


def _ends_with_one(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _batch(
    loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None, dtype: str, longest: int | None, world: int
) -> _Batch:
    """Cut the global batch into the largest micro-batches that fit; recompute activations only if one row does not."""
    training = loaded.recipe.training
    allowed = loaded.recipe.peft.capabilities.gradient_checkpointing is True
    wanted = training.gradient_checkpointing
    choices = [bool(wanted)] if wanted != "auto" else ([False, True] if allowed else [False])
    micros, here = _micro_batches(loaded, machine, world), count_here(loaded.recipe.distributed, machine)
    for checkpointing in choices:
        for micro in micros:
            tokens = micro * _row_length(loaded, longest)
            memory = _step_memory(loaded, machine, facts, dtype, tokens, checkpointing)
            if _fits(memory, machine, here):
                return _cut(loaded, micro, checkpointing, memory, facts, world)
    tokens = micros[-1] * _row_length(loaded, longest)
    memory = _step_memory(loaded, machine, facts, dtype, tokens, choices[-1])
    return _cut(loaded, micros[-1], choices[-1], memory, facts, world)


def _share(loaded: LoadedRecipe, world: int) -> int:
    """Rows of one optimizer step in each process."""
    return max(1, (loaded.recipe.training.global_batch_size or DEFAULT_GLOBAL_BATCH) // world)


def _micro_batches(loaded: LoadedRecipe, machine: Machine, world: int) -> list[int]:
    training = loaded.recipe.training
    if training.per_device_train_batch_size != "auto":
        return [training.per_device_train_batch_size]
    largest = LARGEST_MICRO_BATCH[machine.accelerator]
    if training.gradient_accumulation_steps:
        return [size for size in (64, 32, 16, 8, 4, 2, 1) if size <= min(largest, 8)]
    total = _share(loaded, world)
    return [size for size in range(min(total, largest), 0, -1) if total % size == 0]


def _row_length(loaded: LoadedRecipe, longest: int | None) -> int:
    virtual = _virtual_tokens(loaded)
    limit = loaded.recipe.max_seq_length
    packed = loaded.recipe.task_type == "CAUSAL_LM" and loaded.recipe.sft.packing
    return virtual + (limit if longest is None or packed else min(longest, limit))


def _step_memory(
    loaded: LoadedRecipe, machine: Machine, facts: BaseFacts | None, dtype: str, tokens: int, checkpointing: bool
) -> MemoryEstimate | None:
    if facts is None or not facts.hidden_size:
        return None
    peft, asked = loaded.recipe.peft, loaded.recipe.distributed
    shapes = _adapted_shapes(peft, facts) if isinstance(peft, Lora) else []
    tokens = math.ceil(tokens / asked.row_parts)
    whole = estimate(
        facts,
        dtype=dtype,
        bits=loaded.recipe.quantization.bits,
        adapter_parameters=adapter_parameters(loaded, facts) or 0,
        state=OPTIMIZERS[loaded.recipe.training.optim].state,
        start=start_memory(peft, shapes, dtype, on_cpu=machine.accelerator == "cpu"),
        tokens=tokens,
        checkpointing=checkpointing,
        scored_tokens=tokens if loaded.recipe.task_type == "CAUSAL_LM" else 0,
    )
    return in_each_process(whole, asked, count_processes(asked, machine), facts.num_hidden_layers)


def _fits(memory: MemoryEstimate | None, machine: Machine, here: int = 1) -> bool:
    free = _free_bytes(machine, here)
    return memory is None or not free or memory.total <= USABLE_MEMORY * free


def _free_bytes(machine: Machine, here: int = 1) -> int:
    """Free memory of each process."""
    if machine.gpus:
        return min(gpu.free_bytes for gpu in machine.gpus[:here])
    return machine.available_bytes // here


def _cut(
    loaded: LoadedRecipe,
    micro: int,
    checkpointing: bool,
    memory: MemoryEstimate | None,
    facts: BaseFacts | None,
    world: int,
) -> _Batch:
    training = loaded.recipe.training
    asked = training.per_device_train_batch_size
    accumulation = training.gradient_accumulation_steps or max(1, _share(loaded, world) // micro)
    total = micro * accumulation * world
    over = f"{world} processes" if world > 1 else ""
    is_own = training.global_batch_size or total == DEFAULT_GLOBAL_BATCH
    unknown = " (by rule of thumb: the base is not here)" if facts is None else ""
    why = f"the most that fits{unknown}" if asked == "auto" else ""
    return _Batch(
        micro=Derived(value=micro, origin="computed", why=why)
        if asked == "auto"
        else _written(loaded, "training.per_device_train_batch_size", micro),
        accumulation=_written(loaded, "training.gradient_accumulation_steps", accumulation)
        if training.gradient_accumulation_steps
        else Derived(value=accumulation, origin="computed", why=f"global batch / micro-batch{over and f' / {over}'}"),
        total=_written(loaded, "training.global_batch_size", total)
        if is_own and (training.global_batch_size or (not training.gradient_accumulation_steps and asked == "auto"))
        else Derived(value=total, origin="computed", why=f"micro-batch x accumulation{over and f' x {over}'}"),
        checkpointing=_checkpointing(loaded, checkpointing),
        memory=memory,
    )


def _checkpointing(loaded: LoadedRecipe, value: bool) -> Derived[bool]:
    if loaded.recipe.training.gradient_checkpointing != "auto":
        return _written(loaded, "training.gradient_checkpointing", value)
    if loaded.recipe.peft.capabilities.gradient_checkpointing is not True:
        return Derived(value=value, origin="computed", why=f"{loaded.recipe.peft.method} does not allow it")
    return Derived(value=value, origin="computed", why="one row would not fit without" if value else "it fits without")


def _eval_batch(loaded: LoadedRecipe, micro: int) -> Derived[int]:
    asked = loaded.recipe.training.per_device_eval_batch_size
    if asked == "auto":
        return Derived(value=2 * micro, origin="computed", why="no gradients to keep")
    return _written(loaded, "training.per_device_eval_batch_size", asked)


_UNREAD = "known once the data is read"


def _eval_why(loaded: LoadedRecipe, data: DataFacts) -> str:
    if data.eval_rows:
        return ""
    dataset = loaded.recipe.dataset
    are_named = bool(dataset.eval_path or dataset.eval_split or dataset.eval_fraction)
    return _UNREAD if are_named and data.eval_rows is None else "no evaluation rows"


def _rows_why(loaded: LoadedRecipe, data: DataFacts) -> str:
    dataset = loaded.recipe.dataset
    if not dataset.streaming:
        return data.why or _UNREAD
    size = dataset.shuffle_buffer_size
    order = f"each drawn from {size:,}" if size else "in the order of the files"
    return f"a stream, read while it is trained on, {order}"


def _steps_per_epoch(loaded: LoadedRecipe, rows: int | None, batch: _Batch, world: int) -> Derived[int | None]:
    if rows is None and loaded.recipe.dataset.streaming:
        return Derived(value=None, origin="computed", why="a stream begins again where it ends")
    if rows is None:
        return Derived(value=None, origin="computed", why=_UNREAD)
    whole = rows / (batch.micro.value * world)
    micro_batches = math.floor(whole) if _drops_last(loaded) else math.ceil(whole)
    steps = math.ceil(micro_batches / batch.accumulation.value)
    return Derived(value=steps, origin="computed", why=f"{rows:,} rows in batches of {batch.total.value}")


def _drops_last(loaded: LoadedRecipe) -> bool:
    return bool(loaded.recipe.training.extra.get("dataloader_drop_last"))


def _batch_problems(loaded: LoadedRecipe, rows: int | None, batch: _Batch, world: int) -> list[Problem]:
    """A training that drops the last batch, and has no other one, would make no step."""
    at_once = batch.micro.value * world
    if rows is None or not _drops_last(loaded) or rows >= at_once:
        return []
    over = f" in each of {world} processes" if world > 1 else ""
    what = f"training.extra.dataloader_drop_last: {rows:,} row{'s' * (rows != 1)} make"
    what += f"{'s' * (rows == 1)} no batch of {batch.micro.value:,}{over}, and the last one is dropped"
    remedy = "lower `per_device_train_batch_size`, or remove `dataloader_drop_last`"
    return [Problem(loaded.where("training.extra.dataloader_drop_last"), what, remedy)]


def _warmup_problems(loaded: LoadedRecipe, steps: int | None) -> list[Problem]:
    """The learning rate gets to where it is to rise; a run by `max_steps` is looked at as the recipe is read."""
    warmup = loaded.recipe.training.warmup_steps
    if not warmup or not steps or warmup < steps:
        return []
    what = f"training.warmup_steps: a run of {steps:,} step{'s' * (steps > 1)} ends in its warm-up of {warmup:,}"
    return [Problem(loaded.where("training.warmup_steps"), what, f"write at most {steps - 1:,}, or train longer")]


def _max_steps(loaded: LoadedRecipe, per_epoch: int | None) -> Derived[int | None]:
    training = loaded.recipe.training
    if training.max_steps:
        return _written(loaded, "training.max_steps", training.max_steps)
    why = f"{training.num_train_epochs:g} epochs"
    return Derived(
        value=None if per_epoch is None else math.ceil(training.num_train_epochs * per_epoch),
        origin="computed",
        why=why,
    )


def _warmup(loaded: LoadedRecipe, steps: int | None) -> Derived[int | None]:
    training = loaded.recipe.training
    if training.warmup_steps is not None:
        return _written(loaded, "training.warmup_steps", training.warmup_steps)
    count = None if steps is None else max(0, min(math.ceil(training.warmup_ratio * steps), steps - 1))
    return Derived(value=count, origin="computed", why=f"{training.warmup_ratio:g} of the steps")


def _interval(loaded: LoadedRecipe, key: str, asked: int | None, computed: int | None, why: str) -> Derived[int | None]:
    if asked is not None:
        return _written(loaded, f"training.{key}", asked)
    return Derived(value=computed, origin="computed", why=why)


def _hundredths(steps: int | None) -> int | None:
    return None if steps is None else max(1, steps // 100)


def _regular(loaded: LoadedRecipe, per_epoch: int | None, steps: int | None) -> tuple[int | None, str]:
    """Steps between two evaluations or checkpoints that nobody asked for, and how often that is."""
    if loaded.recipe.dataset.streaming and steps is not None:
        return max(1, steps // 10), "ten times: the epochs of a stream are not known"
    whole = _at_most(per_epoch, steps)
    return None if whole is None else max(1, whole), "once an epoch"


def _at_most(per_epoch: int | None, steps: int | None) -> int | None:
    known = [count for count in (per_epoch, steps) if count is not None]
    return min(known) if known else None


def _learning_rate(loaded: LoadedRecipe, facts: BaseFacts | None) -> Derived[float]:
    asked, method = loaded.recipe.training.learning_rate, loaded.recipe.peft.method
    if asked is not None:
        return _written(loaded, "training.learning_rate", asked)
    usual = _usual_rate(loaded, facts)
    if facts is None or usual == loaded.recipe.peft.capabilities.typical_learning_rate:
        return Derived(value=usual, origin="default", why=f"typical for {method}")
    return Derived(value=usual, origin="default", why=_usual_why(loaded, facts))


def _usual_why(loaded: LoadedRecipe, facts: BaseFacts | None) -> str:
    kind = "text" if loaded.recipe.task_type == "CAUSAL_LM" else "labels"
    if facts is None or not facts.hidden_size:
        return f"usual for {loaded.recipe.peft.method} and {kind}"
    return f"usual for {loaded.recipe.peft.method}, {kind} and a base {facts.hidden_size:,} wide"


def _rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> Derived[int | None]:
    peft = loaded.recipe.peft
    if isinstance(peft, Lora) and leaves_rank_open(loaded):
        why = f"{_usual_why(loaded, facts)}; lora_alpha {peft.lora_alpha:g}"
        return Derived(value=peft.lora_r, origin="default", why=why)
    key = next((key for key in _RANKS if key in type(peft).model_fields), None)
    if key is None:
        return Derived(value=None, origin="computed", why=f"{peft.method} has none")
    return _written(loaded, f"peft.{key}", getattr(peft, key))


_RANKS = ("lora_r", "init_r", "r")
"""What methods call their rank."""


def _usual_rate(loaded: LoadedRecipe, facts: BaseFacts | None) -> float:
    typical = loaded.recipe.peft.capabilities.typical_learning_rate
    return usual_rate(typical, loaded.recipe.task_type, facts.hidden_size if facts else None)


def _base_why(base: Base | None) -> str:
    return (
        f"{base.facts.model_type}, {base.facts.num_hidden_layers} layers"
        if base
        else "the base is not on this machine yet"
    )


def _memory(memory: MemoryEstimate | None, machine: Machine) -> Derived[int | None]:
    if memory is None:
        return Derived(value=None, origin="computed", why="known once the base is here")
    largest = max(asdict(memory).items(), key=lambda term: term[1])
    start = (
        f"; {memory.start / 1e9:.1f} GB for the start of the adapter alone" if memory.start >= _WORTH_TELLING else ""
    )
    good = "rather too high than too low" if machine.accelerator == "cuda" else "good to a factor of 1.5"
    why = f"an estimate, {good}; most of it {largest[0]}{start}"
    return Derived(value=memory.total, origin="computed", why=why)


def _notes(loaded: LoadedRecipe, machine: Machine, batch: _Batch, world: int, rows: int | None) -> list[str]:
    notes = _repeated(rows, batch.micro.value * world) if world > 1 else []
    here = count_here(loaded.recipe.distributed, machine)
    if not _fits(batch.memory, machine, here) and batch.memory:
        free = _free_bytes(machine, here) / 1e9
        notes.append(
            f"memory: about {batch.memory.total / 1e9:.1f} GB needed, {free:.1f} GB free; "
            "shorten `max_seq_length`, lower `per_device_train_batch_size`, or quantise the base"
        )
    optim = loaded.recipe.training.optim
    if optim.startswith("paged_") and machine.accelerator != "cuda":
        notes.append(f'optim: "{optim}" is not paged on {machine.accelerator}, and else the same')
    if loaded.recipe.peft.capabilities.is_sensitive and loaded.recipe.training.learning_rate is None:
        notes.append(f"{loaded.recipe.peft.method}: {loaded.recipe.peft.advice}")
    return notes


def unusual(loaded: LoadedRecipe, facts: BaseFacts | None, batch: int | None) -> list[str]:
    """Notes on settings of the recipe that are far from what is known to work.

    Args:
        loaded: the recipe.
        facts: what is known of the base, if it was found.
        batch: rows of an optimizer step; None if that is not decided yet.
    """
    recipe, peft = loaded.recipe, loaded.recipe.peft
    rate = recipe.training.learning_rate
    width = facts.hidden_size if facts else None
    found = (
        rate_note(rate, _usual_rate(loaded, facts)) if rate is not None and facts is not None else None,
        batch_note(recipe.task_type, batch),
        targets_note(recipe.task_type, getattr(peft, "target_modules", "")),
        rank_note("peft.lora_r", peft.lora_r, width) if isinstance(peft, Lora) else None,
        rank_note("peft.init_r", peft.init_r, width) if isinstance(peft, AdaLora) else None,
        scale_note(peft.lora_alpha, peft.lora_r, peft.use_rslora) if isinstance(peft, Lora) else None,
    )
    return [note for note in found if note]


def _repeated(rows: int | None, at_once: int) -> list[str]:
    """Each process gets as many rows: some come twice where they do not divide."""
    more = -(rows or 0) % at_once
    if not more:
        return []
    return [f"an epoch of {rows:,} rows ends with {more} of its first ones, so that each process gets as many"]
