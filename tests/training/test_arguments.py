"""Recipe and plan as arguments of the upstream trainers, held to the installed versions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from plans import plan_of

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.best_metric import is_higher_better
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.upstream import SET_BY_PLAN, dataclass_fields, peft_config_fields, training_argument_fields
from lora_ns.training.arguments import trainer_arguments, training_arguments

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)

needs_transformers = pytest.mark.skipif(training_argument_fields() is None, reason="reads the installed transformers")


def arguments(path, *overrides, build=training_arguments, data=DataFacts(160, 10)):  # noqa: B008 -- frozen
    loaded = load_recipe(path, overrides)
    plan = plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), data)
    return build(loaded.recipe, plan, Path("run/checkpoints"))


def test_the_arguments_of_the_minimal_recipe(write_recipe):
    assert arguments(write_recipe()) == {
        "output_dir": str(Path("run/checkpoints")),
        "max_steps": 10,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "gradient_checkpointing_kwargs": None,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_first_step": True,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 10,
        "save_total_limit": 2,
        "seed": 42,
        "data_seed": 42,
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "dataloader_num_workers": 0,
        "neftune_noise_alpha": None,
        "report_to": "none",
        "project": "lorans",
        "run_name": "task",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
        "logging_nan_inf_filter": False,
        "accelerator_config": {"non_blocking": False},
        "label_names": ["labels"],
        "full_determinism": False,
        "load_best_model_at_end": False,
        "metric_for_best_model": None,
        "prediction_loss_only": True,
        "ddp_backend": None,
        "ddp_timeout": 1800,
        "deepspeed": None,
        "fsdp": None,
        "fsdp_config": None,
        "save_on_each_node": False,
    }


def test_extra_is_refused_for_exactly_what_the_plan_decides(write_recipe):
    assert arguments(write_recipe()).keys() == SET_BY_PLAN


@needs_transformers
def test_every_argument_is_a_field_of_the_installed_version():
    assert SET_BY_PLAN - training_argument_fields() == set()


@pytest.mark.skipif(dataclass_fields("trl", "trainer/sft_config.py", "SFTConfig") is None, reason="reads trl")
def test_every_argument_of_supervised_fine_tuning_is_a_field_of_the_installed_version(write_recipe):
    own = dataclass_fields("trl", "trainer/sft_config.py", "SFTConfig")
    known = own | dataclass_fields("trl", "trainer/base_config.py", "_BaseConfig") | training_argument_fields()
    assert arguments(write_recipe(), build=trainer_arguments).keys() - known == set()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.gradient_checkpointing=true"], {"gradient_checkpointing_kwargs": {"use_reentrant": False}}),
        (["model.dtype=bfloat16"], {"bf16": True, "fp16": False}),
        (["evaluation.before_training=false"], {"eval_on_start": False, "eval_strategy": "steps"}),
        (["training.group_by_length=false"], {"train_sampling_strategy": "random"}),
        (["sft.packing=true"], {"train_sampling_strategy": "random"}),
        (["sft.neftune_noise_alpha=5.0"], {"neftune_noise_alpha": 5.0}),
        (["training.seed=3"], {"seed": 3, "data_seed": 3}),
        (
            ['tracking.report_to=["wandb"]', "tracking.project=p", "tracking.run_name=r"],
            {"project": "p", "run_name": "r"},
        ),
        (["training.extra.torch_compile=true"], {"torch_compile": True}),
    ],
)
def test_a_key_of_the_recipe_reaches_its_argument(write_recipe, overrides, expected):
    plain, changed = arguments(write_recipe()), arguments(write_recipe(), *overrides)
    assert {key: changed[key] for key in expected} == expected
    assert {key: plain.get(key) for key in expected} != expected


def test_without_evaluation_rows_nothing_is_evaluated(write_recipe):
    made = arguments(write_recipe(), data=DataFacts(160, 0))
    assert [made[key] for key in ("eval_strategy", "eval_steps", "eval_on_start")] == ["no", None, False]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"max_length": None, "padding_free": False, "loss_type": "nll"}),
        (["sft.packing=true", "sft.loss_type=dft"], {"padding_free": True, "loss_type": "dft"}),
    ],
)
def test_the_rows_of_supervised_fine_tuning_are_taken_as_they_are(write_recipe, overrides, expected):
    made = arguments(write_recipe(), *overrides, build=trainer_arguments)
    assert made["dataset_kwargs"] == {"skip_prepare_dataset": True}
    assert {key: made[key] for key in expected} == expected


# Reading the fields of a class that is not imported


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "some_package_to_read"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemError('imported')")
    (folder / "config.py").write_text(
        "class Config(Base):\n    a: int = 1\n    b: str\n    c = 2\n    def d(self): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_the_annotated_names_of_a_class_are_its_fields_and_nothing_is_imported(package):
    assert dataclass_fields(package, "config.py", "Config") == {"a", "b"}


def test_a_class_that_is_not_there_has_no_fields(package):
    assert dataclass_fields(package, "config.py", "Other") == set()


def test_a_package_that_is_not_installed_has_no_answer():
    assert dataclass_fields("no_such_package_anywhere", "config.py", "Config") is None


@pytest.mark.skipif(peft_config_fields("config.py", "PeftConfig") is None, reason="reads the installed peft")
def test_the_fields_of_the_base_classes_are_among_those_of_a_peft_configuration():
    fields = peft_config_fields("tuners/prompt_tuning/config.py", "PromptTuningConfig")
    assert {"prompt_tuning_init", "num_virtual_tokens", "task_type", "peft_type"} <= fields


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        *(("held-out.perplexity", False), ("eval_mine.loss", False), ("exact_match", True), ("mine.perplexity", False)),
        *(("loss", False), ("eval_loss", False), ("exact_match/old", True), ("mine.perplexity/old", False)),
        *(("mean_token_accuracy", True), ("bleu", None), ("other.loss", None), ("bleu/old", None)),
    ],
)
def test_the_direction_of_a_metric_is_known_by_its_name(write_recipe, metric, found):
    suites = '[{kind = "held-out"}, {kind = "held-out", name = "mine"}]'
    recipe = load_recipe(write_recipe(), ["dataset.eval_fraction=0.1", f"evaluation.suites={suites}"]).recipe
    assert is_higher_better(recipe, metric.removeprefix("eval_")) is found
    told = recipe.training.model_copy(update={"extra": {"greater_is_better": True}})
    assert is_higher_better(recipe.model_copy(update={"training": told}), metric) is True


@pytest.mark.parametrize(
    ("more", "loads"),
    [
        ((), False),
        (("peft.init_lora_weights=pissa",), True),
        (("distributed.strategy=deepspeed", "distributed.zero_stage=3", "distributed.num_processes=2"), True),
        (("distributed.strategy=ddp", "distributed.num_processes=2"), False),
    ],
)
def test_transformers_loads_the_best_checkpoint_where_the_best_adapter_does_not_fit(write_recipe, more, loads):
    best = ("dataset.eval_fraction=0.1", "training.load_best_model_at_end=true")
    found = arguments(write_recipe(), *best, *more)
    assert found["load_best_model_at_end"] is loads
    assert found["metric_for_best_model"] == ("loss" if loads else None)
