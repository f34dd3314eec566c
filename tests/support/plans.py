"""The plan of a recipe, settled on a base and a machine."""

from lora_ns.machine.hardware import Machine
from lora_ns.plan.deepspeed import with_deepspeed
from lora_ns.plan.make import make_plan
from lora_ns.plan.plan import DataFacts, Plan
from lora_ns.plan.settle import settle
from lora_ns.plan.settled import Settled
from lora_ns.recipe.load import LoadedRecipe, locating


def plan_of(loaded: LoadedRecipe, machine: Machine, base, data: DataFacts) -> Plan:
    with locating(loaded):
        return make_plan(settle(loaded, machine, base), machine, base, data)


def plan_with_deepspeed(loaded: LoadedRecipe, machine: Machine, base, data: DataFacts) -> Plan:
    with locating(loaded):
        return with_deepspeed(loaded.recipe, loaded.folder, plan_of(loaded, machine, base, data))


def as_asked(loaded: LoadedRecipe) -> Settled:
    """A settled recipe without changes by a base."""
    return Settled(loaded, loaded.recipe)


def plan_here(loaded: LoadedRecipe) -> Plan:
    """The plan that `lorans plan` shows on this machine."""
    from lora_ns.cli.plan import known_for, planned_for
    from lora_ns.machine.hardware import detect

    return planned_for(loaded, detect(), known_for(loaded, is_elsewhere=False))
