"""The door to `trl.experimental`: what lorans needs of it is there, and its absence is one message."""

import importlib
import inspect
import os

import pytest

from lora_ns.errors import MissingError, RecipeError
from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.objectives import OBJECTIVES
from lora_ns.objectives.experimental import PREFIX, missing_module, open_experimental
from lora_ns.recipe.load import load_recipe

EXPERIMENTAL = {name: kind for name, kind in OBJECTIVES.items() if kind.upstream.startswith(PREFIX)}
EACH = pytest.mark.parametrize("kind", EXPERIMENTAL.values(), ids=EXPERIMENTAL)


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_trainer_of_an_objective_is_where_its_class_says(kind):
    pytest.importorskip("trl")
    module, _, name = kind.upstream.rpartition(".")
    found = open_experimental(kind.upstream, kind.toml) if kind in EXPERIMENTAL.values() else None
    assert inspect.isclass(found or getattr(importlib.import_module(module), name))


@EACH
def test_an_experimental_trainer_has_what_lorans_overrides_and_takes_its_arguments(kind):
    pytest.importorskip("trl")
    trainer = open_experimental(kind.upstream, kind.toml)
    parameters = inspect.signature(trainer.concatenated_forward).parameters
    assert list(parameters) == ["self", "model", "batch"]
    assert isinstance(inspect.getattr_static(trainer, "concatenated_inputs"), staticmethod)
    source = inspect.getsource(trainer)
    for used in (
        "_stored_metrics",
        "self.concatenated_inputs(",
        'batch["chosen_labels"].shape[0]',
        "train_dataset.map(",
    ):
        assert used in source
    config = open_experimental(kind.upstream_config, kind.toml)
    assert set(kind().arguments(1)) <= set(inspect.signature(config).parameters)


@EACH
def test_an_experimental_trainer_is_opened_without_a_warning_and_without_a_trace(kind, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.delenv("TRL_EXPERIMENTAL_SILENCE", raising=False)
    open_experimental(kind.upstream, kind.toml)
    assert "TRL_EXPERIMENTAL_SILENCE" not in os.environ
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "0")
    open_experimental(kind.upstream, kind.toml)
    assert os.environ["TRL_EXPERIMENTAL_SILENCE"] == "0"


@pytest.mark.parametrize("name", ["orpo.GoneTrainer", "gone.GoneTrainer"])
def test_a_trainer_that_is_gone_is_one_message_with_a_remedy(name):
    pytest.importorskip("trl")
    with pytest.raises(MissingError) as raised:
        open_experimental(PREFIX + name, "orpo")
    told = str(raised.value)
    assert f"has no `{PREFIX}{name}`" in told
    assert told.startswith("orpo: TRL ")
    assert "pip install 'trl==1.16.*'" in told


def test_a_module_that_is_gone_is_found_without_importing_it():
    pytest.importorskip("trl")
    assert missing_module("trl.SFTTrainer", "sft") is None
    assert [missing_module(kind.upstream, kind.toml) for kind in EXPERIMENTAL.values()] == [None] * len(EXPERIMENTAL)
    assert missing_module(f"{PREFIX}gone.GoneTrainer", "orpo").key == "orpo"


@pytest.mark.parametrize(
    ("table", "times", "published"),
    [("dpo", 10, 1e-6), ("orpo", 10, 8e-6), ("cpo", 10, 1e-6)],
)
def test_the_default_rate_for_adapters_is_ten_times_the_published_one(table, times, published):
    assert OBJECTIVES[table].usual_rate(LORA_RATE, 4096) == pytest.approx(times * published)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["cpo.simpo_gamma=1.0"], '`simpo_gamma` has no effect with "sigmoid"'),
        (["cpo.loss_type=hinge", "cpo.label_smoothing=0.1"], '`label_smoothing` has no effect with "hinge"'),
        (["cpo.alpha=0.5"], "the probability of a whole answer is too small for `alpha`"),
        (["orpo={}", "cpo={}"], "has no effect with `[cpo]`"),
        (["orpo.beta=0"], "0"),
    ],
)
def test_keys_that_do_not_fit_are_refused(write_recipe, overrides, told):
    with pytest.raises(RecipeError) as raised:
        load_recipe(write_recipe(), overrides)
    assert told in str(raised.value)


@pytest.mark.parametrize("table", EXPERIMENTAL)
@pytest.mark.parametrize(
    "more", [["peft.lora_dropout=0.1"], ["peft.method=prompt-tuning"], ["peft.init_lora_weights=pissa"]]
)
def test_without_a_reference_dropout_and_every_start_are_allowed(write_recipe, table, more):
    assert load_recipe(write_recipe(), [f"{table}={{}}", *more]).recipe.objective.toml == table
