"""Exact match and suites during training: asked at each evaluation, chosen by, and compared with those before it."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, interrupt, resumed, run_recipe

from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics
from lora_ns.services.after_training import judged
from lora_ns.services.validate import _one_step
from lora_ns.training.fit import TrainResult

ASKED = (
    "evaluation.exact_match=true",
    "evaluation.max_samples=8",
    'evaluation.suites=[{kind = "held-out"}]',
    "generation={max_new_tokens = 8, do_sample = true, temperature = 0.5}",
    "peft.lora_dropout=0.1",
    "training.max_steps=8",
    "training.eval_steps=2",
    "training.save_steps=2",
    "training.save_total_limit=9",
    "training.gradient_checkpointing=true",
)
BEST = ("training.load_best_model_at_end=true", "training.metric_for_best_model=exact_match")
WHILE = ("evaluation.while_training=true", "evaluation.samples_while_training=6", *BEST)


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    return run_recipe(tmp_path_factory.mktemp("asking"), RECIPE, *ASKED, *WHILE)


def column(run: RunDir, key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in read_metrics(run.metrics).rows if key in row}


def result_of(run: RunDir) -> TrainResult:
    return TrainResult(str(run.path), str(run.adapter), 8, 1, {})


def test_the_best_checkpoint_is_that_of_the_best_exact_match(asking):
    found, losses = column(asking, "eval_exact_match"), column(asking, "eval_loss")
    assert found.keys() == losses.keys() == {0, 2, 4, 6, 8}
    best = max((step for step in found if step), key=lambda step: (found[step], -step))
    assert best != min(losses, key=losses.__getitem__), "otherwise the loss would choose the same"
    chosen = asking.checkpoints / f"checkpoint-{best}" / WEIGHTS
    assert (asking.adapter / WEIGHTS).read_bytes() == chosen.read_bytes()
    assert {round(value * 6, 9) % 1 for value in found.values()} == {0}, "six rows are asked"


def test_asking_changes_nothing_of_the_training(asking, tmp_path):
    quiet = run_recipe(tmp_path, RECIPE, *ASKED)
    last = f"checkpoint-8/{WEIGHTS}"
    assert (quiet.checkpoints / last).read_bytes() == (asking.checkpoints / last).read_bytes()
    for key in ("loss", "grad_norm", "eval_loss"):
        assert column(quiet, key) == column(asking, key)
    assert not column(quiet, "eval_exact_match")


def test_figures_before_and_after_are_recorded_with_a_verdict(asking):
    metrics = asking.read().metrics
    for name in ("exact_match", "held-out.loss", "held-out.perplexity"):
        assert {name, f"before/{name}"} <= metrics.keys()
    assert metrics["held-out.loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    (file,) = asking.evaluations.glob("1/results.json")
    exact, held_out = json.loads(file.read_text())["suites"]
    assert exact["whole"]["figures"]["exact_match"]["before"]["value"] == metrics["before/exact_match"]
    contests = [one for report in (exact, held_out) for one in report["whole"]["contests"]]
    assert {(one["system"], one["against"]) for one in contests} == {("after", "before")}


def test_a_resumed_run_has_the_same_answers_before_and_a_verdict(asking, tmp_path):
    shutil.copytree(asking.path, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    before, weights = run.answers_before.read_bytes(), (run.adapter / WEIGHTS).read_bytes()
    run.answers_after.unlink()
    interrupt(run, 8)
    resumed(run)
    assert (run.adapter / WEIGHTS).read_bytes() == weights
    assert run.answers_before.read_bytes() == before
    assert run.answers_after.read_bytes() == asking.answers_after.read_bytes()
    assert [one.name for one in judged(result_of(run)).suites] == ["exact-match", "held-out"]


def test_a_suite_whose_rows_have_changed_has_no_verdict(asking, tmp_path):
    shutil.copytree(asking.path, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    kept = json.loads(run.answers_before.read_text())
    kept["exact-match"]["items"][0]["answer"] = "another"
    run.answers_before.write_text(json.dumps(kept))
    found = judged(result_of(run))
    assert found.notes == ("no verdict on `exact-match`: its rows have changed since training began",)
    assert [one.name for one in found.suites] == ["held-out"]


def test_one_step_asks_nothing_and_chooses_no_checkpoint(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    loaded = load_recipe(tmp_path / "recipe.toml", [*ASKED, *WHILE])
    once = _one_step(loaded, tmp_path / "run").recipe
    assert (once.evaluation.asked, once.evaluation.while_training, once.training.extra) == ((), False, {})
