"""Effective settings of the imported recipe."""

from __future__ import annotations

from lora_ns.model.files import BaseFacts
from lora_ns.plan.fit import Batch
from lora_ns.plan.plan import computed
from lora_ns.plan.rank import planned_rank
from lora_ns.plan.schedule import epoch_steps, planned_rate, planned_steps, planned_warmup
from lora_ns.plan.settled import Settled
from lora_ns.services.import_check.reader import Numbers, Rate


def our_numbers(settled: Settled, facts: BaseFacts | None, rows: int | None) -> Numbers:
    """Return the settings that the recipe trains with on any machine.

    Args:
        settled: the recipe, adapted to its base.
        facts: facts about the base; None if it is not on this machine.
        rows: number of training rows; None if unknown.
    """
    recipe, training, objective = settled.recipe, settled.recipe.training, settled.recipe.objective
    factors = recipe.peft.factors
    alpha = factors.alpha if factors else None
    divisor = (factors.rank**0.5 if factors.is_stabilised else factors.rank) if factors else None
    per_step = training.global_batch_size or recipe.objective.usual_batch
    # The machine determines only how a step is divided into micro-batches, not the number of steps.
    batch = Batch(computed(per_step), computed(1), computed(per_step), computed(False), None)
    counted = None if objective.packs else rows
    steps = planned_steps(settled, epoch_steps(recipe, counted, batch, 1).value).value
    warmup = planned_warmup(settled, steps).value
    peak = planned_rate(settled, facts).value
    targets = getattr(recipe.peft, "target_modules", ())
    return Numbers(
        {
            "rank": planned_rank(settled, facts).value,
            "alpha": alpha,
            "scaling": alpha / divisor if alpha is not None and divisor else None,
            "dropout": getattr(recipe.peft, "lora_dropout", 0.0),
            "target modules": targets if isinstance(targets, str) else sorted(targets),
            "modules to save": sorted(getattr(recipe.peft, "modules_to_save", None) or ()),
            "layers": _listed(getattr(recipe.peft, "layers_to_transform", None)) or "all",
            "learning rate": peak,
            "schedule": training.lr_scheduler_type,
            "warm-up steps": warmup,
            "steps": steps,
            "epochs": None if training.max_steps else training.num_train_epochs,
            "rows": rows,
            "global batch size": per_step,
            "max length": objective.max_seq_length,
            "longer rows": getattr(objective, "on_overflow", None),
            "packing": objective.packs,
            "precision": recipe.model.dtype,
            "quantization": recipe.quantization.method,
            "optimizer": training.optim,
            "weight decay": training.weight_decay,
            "gradient clipping": training.max_grad_norm,
            "loss on": _LOSS.get(str(getattr(objective, "train_on", "")), "the last answer"),
        },
        Rate(peak, training.lr_scheduler_type, warmup, steps, training.extra.get("lr_scheduler_kwargs")),
    )


_LOSS = {"assistant": "answers", "all": "every token"}


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
