"""Checks of a recipe against this machine, its base and its rows."""

from __future__ import annotations

from typing import TypeGuard

from lora_ns.errors import Problem
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.fit import Batch
from lora_ns.plan.room import position_offset, room_for_rows
from lora_ns.plan.schedule import drops_last
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.upstream import supports_sdpa
from lora_ns.table import first_of


def device_problems(recipe: Recipe, machine: Machine) -> list[Problem]:
    """Find settings that do not work on this device."""
    model, device = recipe.model, machine.accelerator
    problems: list[Problem] = []
    if model.dtype == "float16" and device != "cuda":
        problems.append(
            Problem(
                "",
                f'"float16" needs a CUDA device, but this is {device}',
                'write "auto"',
                key="model.dtype",
            )
        )
    if model.dtype == "bfloat16" and device == "cuda" and not machine.gpus[0].bf16:
        what = f"{machine.gpus[0].name} does not support bfloat16"
        problems.append(Problem("", what, 'write "auto" or "float16"', key="model.dtype"))
    if model.dtype == "bfloat16" and device == "cuda" and recipe.quantization.float16_on_gpu:
        what = f"{recipe.quantization.float16_on_gpu} do not support bfloat16 on a GPU"
        problems.append(Problem("", what, 'write "auto" or "float16"', key="model.dtype"))
    if model.attn_implementation == "flash_attention_2" and device != "cuda":
        what = f'"flash_attention_2" needs a CUDA device, but this is {device}'
        problems.append(Problem("", what, 'write "auto"', key="model.attn_implementation"))
    optim = recipe.training.optim
    if OPTIMIZERS[optim].package == "bitsandbytes" and device == "mps":
        what = f'"{optim}" needs bitsandbytes, which does not train on an Apple GPU'
        problems.append(Problem("", what, 'write "adamw_torch_fused"', key="training.optim"))
    return problems


def cpu_problems(loaded: LoadedRecipe, device: str) -> list[Problem]:
    """Report an accelerate configuration that forces the CPU on a machine with a GPU."""
    cpu = loaded.filled.file.cpu if loaded.filled.file else None
    if cpu is None or device == "cpu":
        return []
    remedy = "hide it with `CUDA_VISIBLE_DEVICES= lorans ...`" if device == "cuda" else "remove it"
    return [Problem(cpu.where, f"{cpu.shown}, but this machine has a GPU", remedy)]


def quantization_problems(recipe: Recipe, machine: Machine, facts: BaseFacts | None) -> list[Problem]:
    """Find settings that do not work with quantisation on this device, or with this base."""
    quantization, device = recipe.quantization, machine.accelerator
    method = recipe.peft
    if quantization.bits and device == "mps":
        what = f"{quantization.library or quantization.method} does not train on an Apple GPU"
        return [Problem("", what, "remove `[quantization]`", key="quantization.method")]
    if row := first_of(*method.refused_on(device, quantization.method)):
        return [Problem("", row.what, row.remedy, key=row.key)]
    works = quantization.works_with_biases_under(method)
    if works is not True and facts and facts.has_biases:
        what = f"{method.tag()} does not train over a quantised base whose layers have biases: {works}"
        return [Problem("", what, 'write "lora", or remove `[quantization]`', key="peft.method")]
    return []


def lacks_sdpa(facts: BaseFacts | None) -> TypeGuard[BaseFacts]:
    """Return whether transformers has no SDPA for this model family."""
    return facts is not None and supports_sdpa(facts.model_type) is False


def attention_problems(recipe: Recipe, facts: BaseFacts | None) -> list[Problem]:
    """Find an attention implementation that the base does not support."""
    if recipe.model.attn_implementation != "sdpa" or not lacks_sdpa(facts):
        return []
    what = f'{facts.model_type} does not support "sdpa"'
    return [Problem("", what, 'write "auto" or "eager"', key="model.attn_implementation")]


def length_problems(recipe: Recipe, facts: BaseFacts | None) -> list[Problem]:
    """Check that a row and the method's virtual tokens fit into the positions of the base."""
    room, length = room_for_rows(recipe, facts), recipe.objective.max_seq_length
    if facts is None or facts.max_position_embeddings is None or room is None or length <= room:
        return []
    key = recipe.objective.key("max_seq_length")
    virtual = recipe.peft.virtual_length
    own = f" minus {virtual} virtual tokens" if virtual else ""
    positions = f"the base's {facts.max_position_embeddings - position_offset(facts)} positions{own}"
    what = f"{length} exceeds {positions}"
    return [Problem("", what, f"write at most {room}", key=key)]


def _group_problem(recipe: Recipe, rows: int | None, batch: Batch, world: int) -> Problem | None:
    """Check that an optimizer step has whole groups of completions, and that there are prompts for one."""
    objective, total = recipe.objective, batch.total.value
    group, of_eval = objective.group_size, objective.eval_group_size
    size = recipe.training.per_device_eval_batch_size
    if total % group:
        fits = sorted({max(group, total // group * group), (total // group + 1) * group})
        what = f"{total} completions of a step are not a multiple of `{objective.toml}.num_generations = {group}`"
        remedy = f"write {' or '.join(map(str, fits))}, or another `num_generations`"
        return Problem("", what, remedy, key="training.global_batch_size")
    if size != "auto" and size * world % of_eval:
        what = f"{size * world} is not a multiple of `{objective.toml}.num_generations_eval = {of_eval}`"
        return Problem("", what, f"write a multiple of {of_eval}", key="training.per_device_eval_batch_size")
    if rows is not None and objective.generates and rows < total // group:
        each = f" with {group} completions each" if group > 1 else ""
        what = f"a step needs {total // group} prompts{each}, but there are {rows:,}"
        remedy = f"add rows, or lower `training.global_batch_size` to {rows * group}"
        return Problem("", what, remedy, key="training.global_batch_size")
    return None


def batch_problems(recipe: Recipe, rows: int | None, batch: Batch, world: int) -> list[Problem]:
    """Check that batches hold enough rows: two if they are compared, and one whole batch if others are dropped."""
    if recipe.objective.compares_rows and batch.micro.value * world < 2:
        what = f"one row would be trained on at a time, but `[{recipe.objective.toml}]` compares rows"
        return [Problem("", what, "write at least 2", key="training.global_batch_size")]
    if problem := _group_problem(recipe, rows, batch, world):
        return [problem]
    at_once = batch.micro.value * world
    if rows is None or not drops_last(recipe) or rows >= at_once:
        return []
    over = f" in each of {world} processes" if world > 1 else ""
    what = f"{rows:,} row{'s' * (rows != 1)} do{'es' * (rows == 1)} not fill"
    what += f" a batch of {batch.micro.value:,}{over}, and incomplete batches are dropped"
    remedy = "lower `per_device_train_batch_size`, or remove `dataloader_drop_last`"
    return [Problem("", what, remedy, key="training.extra.dataloader_drop_last")]
