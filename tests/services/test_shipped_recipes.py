"""Every shipped recipe trains as it is, on a tiny base of its family and rows of its schema."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

import datasets
from families import GLUE, QUESTION, write_everything

from lora_ns.answers.opened import open_trained
from lora_ns.data.rows import Row
from lora_ns.errors import DataError
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.starters import STARTS, write_folder
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.infer import as_row, infer
from lora_ns.services.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.toml"))
ALIKE = {
    *(f"roberta-base/glue-{task}-lora.toml" for task in ("cola", "qnli", "qqp", "rte", "sst2", "wnli")),
    *(f"smollm2-135m/{rows}-lora.toml" for rows in ("alpaca", "dolly", "oasst", "openhermes")),
}
"""Recipes that differ from others in their rows alone, whose schemas have tests of their own."""


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_everything(folder)
    return folder


@pytest.fixture
def train_shipped(hub, tmp_path, monkeypatch):
    """Trains a shipped recipe for two steps, in a folder where its base and its data lie under their names."""
    monkeypatch.chdir(hub)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(name, *overrides):
        shortened = [f"training.output_dir={tmp_path / 'run'}", "training.max_steps=2"]
        with Noise() as noise:
            train(load_recipe(RECIPES / name, [*shortened, *overrides]), SilentObserver(), noise)
        return RunDir.open(tmp_path / "run")

    return run


SHORT = {
    "nano/distillation.toml": ["distillation.teacher=lorans:nano"],  # instead of an earlier run
    "qwen2.5-0.5b/distillation.toml": ["training.global_batch_size=4", "distillation.max_completion_length=8"],
    "qwen2.5-1.5b/gsm8k-grpo.toml": [
        *("training.global_batch_size=8", "grpo.max_completion_length=8", "grpo.preflight_prompts=2"),
        "evaluation.max_samples=2",
    ],
}
"""Overrides of recipes that would generate for long."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.matrix) if name in ALIKE else name for name in NAMES]
)
def test_a_shipped_recipe_trains_and_is_used(train_shipped, name):
    few = ["dataset.max_eval_samples=8"] if name.startswith("nano") else []
    few += SHORT.get(name, [])
    alone = ['distributed={strategy = "none"}'] if name.startswith("distributed") else []
    run = train_shipped(name, *few, *alone)
    manifest = run.read()
    assert manifest.status == "finished"
    assert manifest.data.train.rows > 0
    assert manifest.data.eval
    trained = open_trained(run)
    settings = manifest.recipe.generation.model_copy(update={"max_new_tokens": 4})
    texts, classes = GLUE.get(manifest.recipe.dataset.subset, ((), ()))
    asked = Row("input", dict.fromkeys(texts, "A plum fell.")) if texts else as_row(trained, QUESTION)
    if manifest.recipe.objective.answers == "score":
        asked = Row("input", {"prompt": QUESTION, "chosen": "2"})
    (row,) = infer(trained, [asked], settings).rows
    if manifest.recipe.objective.answers == "score":
        assert isinstance(row["score"], float)
        return
    if manifest.recipe.task_type == "TOKEN_CLS":
        assert row["tags"]
        return
    assert "output" in row
    assert manifest.labels == classes  # by their names, in the data set's order
    if texts:
        assert manifest.problem_type == ("single_label_classification" if classes else "regression")
        assert manifest.metrics.keys() >= ({"eval_f1", "eval_matthews_correlation"} if classes else {"eval_rmse"})


def test_every_task_of_glue_has_a_recipe():
    shipped = {name.split("-")[2] for name in NAMES if name.startswith("roberta-base/glue-")}
    assert shipped == set(GLUE)


def test_a_split_without_classes_is_no_evaluation(train_shipped):
    with pytest.raises(
        DataError, match=r"glue/mrpc\[test\], row 1: \[LABEL001\] class `-1` is not among those trained"
    ):
        train_shipped("roberta-base/glue-mrpc-lora.toml", "dataset.eval_split=test")


def test_a_split_that_is_not_there_is_told(train_shipped):
    with pytest.raises(DataError, match=r"dataset\.name: openai/gsm8k/main\[exam\] cannot be read"):
        train_shipped("smollm2-135m/gsm8k-lora.toml", "dataset.eval_split=exam")


def test_what_init_writes_trains_at_once(tmp_path, monkeypatch):
    for file, text in write_folder(STARTS["template"], "new").items():
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    with Noise() as noise:
        train(load_recipe(tmp_path / "recipe.toml", ["training.max_steps=2"]), SilentObserver(), noise)
    assert RunDir.open(tmp_path / "outputs/run").read().status == "finished"
