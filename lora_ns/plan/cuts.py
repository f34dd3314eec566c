"""What a run can do without to need less memory."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ns.recipe.recipe import Recipe


def memory_cuts(recipe: Recipe, rows: int, checkpointing: bool) -> Iterator[str]:
    """The changes of a recipe that save memory in a training step and are not made yet, in words.

    Args:
        recipe: the recipe.
        rows: rows of a batch that were computed at once.
        checkpointing: whether activations are recomputed.
    """
    if rows > 1 and not (recipe.objective.compares_rows and rows == 2):
        yield "halve `per_device_train_batch_size`"
    if not checkpointing and recipe.peft.capabilities.gradient_checkpointing is True:
        yield "set `gradient_checkpointing = true`"
    if recipe.quantization.bits is None:
        yield 'quantise the base with `[quantization] method = "bnb-4bit"`'
    yield f"lower `{recipe.objective.key('max_seq_length')}`"
    if (factors := recipe.peft.factors) and factors.rank > _LEAST_RANK:
        yield f"lower `peft.{factors.key}`"


_LEAST_RANK = 4
