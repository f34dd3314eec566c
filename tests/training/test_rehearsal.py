"""Every further argument of the trainer is decided elsewhere, refused with a reason, or taken if its value is good."""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import transformers
from plans import plan_of

from lora_ns.errors import LoransError
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.keys import known_keys
from lora_ns.recipe.load import load_recipe, locating
from lora_ns.recipe.rules.training import _PUSHING
from lora_ns.recipe.upstream import REFUSED_ARGUMENTS, SET_BY_PLAN
from lora_ns.training.rehearsal import check_arguments

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)
DDP = ("distributed.strategy=ddp", "distributed.num_processes=2")
WORKERS = ("training.dataloader_num_workers=1",)
TRACKED = ('tracking.report_to=["trackio"]',)
BEST = ("training.metric_for_best_model=loss", "dataset.eval_fraction=0.1")
NOT_BOOL = ("'x'", "1")

TAKEN = {
    "adam_epsilon": (("-1.0", "'x'", "nan"), ("1e-7",), ()),
    "average_tokens_across_devices": (NOT_BOOL, ("false",), ()),
    "dataloader_drop_last": (NOT_BOOL, ("true",), ()),
    "dataloader_in_order": (NOT_BOOL, ("false",), ()),
    "dataloader_multiprocessing_context": (("'nope'", "1"), ("'spawn'",), WORKERS),
    "dataloader_persistent_workers": (NOT_BOOL, ("true",), WORKERS),
    "dataloader_pin_memory": (NOT_BOOL, ("false",), ()),
    "dataloader_prefetch_factor": (("-1", "'x'"), ("2",), WORKERS),
    "ddp_broadcast_buffers": (NOT_BOOL, ("true",), DDP),
    "ddp_bucket_cap_mb": (("0", "'x'"), ("25",), DDP),
    "ddp_find_unused_parameters": (NOT_BOOL, ("true",), DDP),
    "ddp_static_graph": (NOT_BOOL, ("true",), DDP),
    "eval_accumulation_steps": (("0", "-1", "1.5"), ("2",), ()),
    "eval_delay": (("'soon'", "-1"), ("2", "0.5"), ()),
    "greater_is_better": (NOT_BOOL, ("true",), BEST),
    "label_smoothing_factor": (("1.0", "-0.1", "true"), ("0.1",), ()),
    "log_level": (("'loud'", "1"), ("'info'",), ()),
    "log_level_replica": (("'loud'", "1"), ("'info'",), ()),
    "log_on_each_node": (NOT_BOOL, ("false",), ()),
    "lr_scheduler_kwargs": (("'x'", "{cycles=2}", "1"), ("{num_cycles=0.5}",), ()),
    "optim_args": (("'lr'", "'nope=1'", "1"), ("'alpha=0.9'",), ("training.optim=rmsprop",)),
    "save_only_model": (("true", "'x'"), ("false",), ()),
    "skip_memory_metrics": (NOT_BOOL, ("false",), ()),
    "tf32": (NOT_BOOL, ("false",), ()),
    "torch_compile": (NOT_BOOL, ("true",), ()),
    "torch_compile_backend": (("'nope'", "1"), ("'eager'",), ()),
    "torch_compile_mode": (("'nope'", "1"), ("'default'",), ()),
    "torch_empty_cache_steps": (("0", "'x'"), ("2",), ()),
    "trackio_bucket_id": (("1",), ("'a/b'",), TRACKED),
    "trackio_space_id": (("1",), ("'a/b'",), TRACKED),
    "trackio_static_space_id": (("1",), ("'a/b'", "false"), TRACKED),
}
"""Values that are refused, values that are good, and what these need beside them."""


@pytest.fixture
def restored_environment() -> Iterator[None]:
    """What the arguments say of compilation is kept in variables."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def check(path: Path, *overrides: str) -> None:
    loaded = load_recipe(path, overrides)
    plan = plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(160, 10))
    with locating(loaded):
        check_arguments(loaded.recipe, plan, Path("run/checkpoints"))


def test_every_field_of_the_installed_arguments_is_known() -> None:
    fields = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    sorted_out = [SET_BY_PLAN, REFUSED_ARGUMENTS.keys(), _PUSHING, TAKEN.keys()]
    assert fields - set().union(*sorted_out) == set()
    assert sum(map(len, sorted_out)) == len(set().union(*sorted_out))
    assert REFUSED_ARGUMENTS.keys() | TAKEN.keys() <= fields


@pytest.mark.parametrize("key", TAKEN)
@pytest.mark.usefixtures("restored_environment")
def test_a_value_is_refused_before_there_is_a_run_or_taken(write_recipe, key: str) -> None:
    bad, good, beside = TAKEN[key]
    path = write_recipe()
    for value in bad:
        with pytest.raises(LoransError, match=r"training\.(extra|optim|lr_scheduler_type)"):
            check(path, *beside, f"training.extra.{key}={value}")
    for value in good:
        check(path, *beside, f"training.extra.{key}={value}")
    assert not Path("run").exists()


@pytest.mark.parametrize("key", [key for key, row in TAKEN.items() if row[2] and key != "optim_args"])
@pytest.mark.usefixtures("restored_environment")
def test_a_value_that_has_no_effect_is_refused(write_recipe, key: str) -> None:
    with pytest.raises(LoransError, match=r"training\.extra"):
        check(write_recipe(), f"training.extra.{key}={TAKEN[key][1][0]}")


@pytest.mark.parametrize("key", REFUSED_ARGUMENTS)
def test_a_refused_argument_is_refused_with_its_reason(write_recipe, key: str) -> None:
    with pytest.raises(LoransError, match=rf"training.extra.{key}: `{key}`: [`\w]+") as caught:
        load_recipe(write_recipe(), [f"training.extra.{key}=true"])
    assert REFUSED_ARGUMENTS[key] in str(caught.value)


FIELDS = {*SET_BY_PLAN, *REFUSED_ARGUMENTS, *_PUSHING, *TAKEN}
REFUSED = sorted(FIELDS - {key for key, row in TAKEN.items() if not row[2] and key != "save_only_model"})
"""Fields that no recipe can have as it is."""
MISSPELT = [wrong for key in REFUSED for wrong in (f"{key}x", key[:-1], key.replace("_", "", 1)) if wrong not in FIELDS]
MEANT = re.compile(r"(?:did you mean|write) `([\w.]+)`")


@pytest.mark.parametrize("wrong", dict.fromkeys(MISSPELT))
def test_what_is_suggested_is_not_refused_then(write_recipe, wrong: str) -> None:
    with pytest.raises(LoransError) as caught:
        load_recipe(write_recipe(), [f"training.extra.{wrong}=true"])
    (told,) = [problem for problem in caught.value.problems if "has no field" in problem.what]
    if not (meant := MEANT.match(told.remedy)):
        assert told.remedy == "remove it"
    elif "." in meant[1]:
        assert meant[1] in set(known_keys())
    else:
        load_recipe(write_recipe(), [f"training.extra.{meant[1]}=true"])


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("warmup_ratio", "write `training.warmup_ratio`"),
        ("warmup_ratoi", "did you mean `training.warmup_ratio`?"),
        ("warmup_steps", "write `training.warmup_steps`"),
        ("run_name", "write `tracking.run_name`"),
        ("max_seq_length", "write `sft.max_seq_length`"),
        ("seed", "write `training.seed`"),
        ("bf16", "remove it"),
        ("hub_tokn", "remove it"),
        ("adam_epsilo", "did you mean `adam_epsilon`?"),
    ],
)
def test_a_key_of_the_recipes_own_is_named(write_recipe, key: str, remedy: str) -> None:
    with pytest.raises(LoransError) as caught:
        load_recipe(write_recipe(), [f"training.extra.{key}=1"])
    assert [problem.remedy for problem in caught.value.problems] == [remedy]
