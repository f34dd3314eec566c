"""Several adapters of one base answer in one pass as each of them does alone."""

import json
import shutil
import sys

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, run_recipe
from typer.testing import CliRunner

import lora_ns.answers.opened
from lora_ns.answers.opened import open_run
from lora_ns.answers.weights import shares_load
from lora_ns.cli.app import app
from lora_ns.errors import UsageError

SHORT = ("--set", "generation.max_new_tokens=8", "--set", "generation.batch_size=2")
TEXTS = "Spell planet backwards.\nWrite plum in capitals.\nWhat is 12 + 7?\nplum\n"

OTHERS = {
    "dora": ("training.seed=7", "peft.use_dora=true", "peft.lora_r=4"),
    "head": ("training.seed=8", 'peft.modules_to_save=["lm_head"]', 'peft.target_modules=["q_proj"]'),
    "chatml": ("training.seed=9", 'sft.chat_template="chatml"'),
    "ia3": ('peft.method="ia3"',),
    "prompt": ('peft.method="prompt-tuning"',),
    "biased": ("training.seed=5", 'peft.bias="lora_only"'),
}
SHARING = {"dora", "head", "chatml"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run for each kind of adapter, all on one base."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: run_recipe(folder, RECIPE, f'training.output_dir="{name}"', "training.max_steps=3", *more)
        for name, more in OTHERS.items()
    }


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "in.txt").write_text(TEXTS)
    return tmp_path / "in.txt"


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def rows_of(place, texts, *options):
    done = call("infer", place, "--input-file", texts, "--json", *SHORT, *options)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def only(row):
    return {name: row[name] for name in ("output", "finish_reason", "prompt_tokens", "output_tokens")}


def test_each_answers_as_alone_with_one_load_for_all_that_can_share_it(lora_run, runs, texts, monkeypatch):
    alone = {name: [only(row) for row in rows_of(run.path, texts)] for name, run in {"run": lora_run, **runs}.items()}
    loads, load = [], lora_ns.answers.opened.load_base
    monkeypatch.setattr(lora_ns.answers.opened, "load_base", lambda *given: loads.append(1) or load(*given))
    options = [word for run in runs.values() for word in ("--adapter", run.path)]
    found = rows_of(lora_run.path, texts, *options, "--base-too")
    assert len(loads) == 1 + len(runs.keys() - SHARING)
    assert [*found[0]["outputs"]] == ["run", "base", *runs]
    for name, expected in alone.items():
        assert [row["outputs"][name] for row in found] == expected
    assert len({json.dumps(one) for one in alone.values()}) > 3, "the adapters differ"
    base = [row["outputs"]["base"]["output"] for row in found]
    assert base != [row["output"] for row in alone["run"]]
    assert {name for name, run in runs.items() if shares_load(open_run(lora_run), open_run(run))} == SHARING


def test_a_killed_command_goes_on(lora_run, runs, texts, tmp_path, monkeypatch):
    options = ["--adapter", runs["dora"].path, "--adapter", runs["ia3"].path, "--base-too"]
    whole = call("infer", lora_run.path, "--input-file", texts, "-o", tmp_path / "whole.jsonl", *SHORT, *options)
    assert whole.exit_code == 0, whole.output
    batch, count = lora_ns.answers.work.compute_batch, iter(range(100))
    monkeypatch.setattr(
        lora_ns.answers.work, "compute_batch", lambda *given: sys.exit(137) if next(count) == 5 else batch(*given)
    )
    words = ("infer", lora_run.path, "--input-file", texts, "-o", tmp_path / "o.jsonl", *SHORT, *options)
    assert call(*words).exit_code == 137
    assert call(*words, "--resume").exit_code == 0
    assert next(count) == 9, "four adapters with two batches each, and the one that was killed"
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_classifiers_and_artefacts_answer_beside_each_other(classifier_run, tmp_path, texts):
    other = run_recipe(tmp_path, CLASSES, 'training.output_dir="other"', "training.seed=3")
    plain = tmp_path / "plain"
    assert call("export", classifier_run.path, "--to", "plain", "-o", plain).exit_code == 0
    found = rows_of(classifier_run.path, texts, "--adapter", other.path, "--adapter", plain)
    for name, place in (("run", classifier_run.path), ("other", other.path), ("plain", plain)):
        for row, own in zip(found, rows_of(place, texts), strict=True):
            assert row["outputs"][name]["output"] == own["output"]
            assert row["outputs"][name]["score"] == pytest.approx(own["score"], rel=1e-5)
    assert rows_of(classifier_run.path, texts)[0]["output"] == found[0]["outputs"]["plain"]["output"]
    shown = call("infer", classifier_run.path, "--input-file", texts, "--adapter", other.path).stdout.splitlines()
    assert [line.split(":")[0] for line in shown] == ["run", "other"] * 4


def test_what_cannot_answer_beside_a_run_is_refused(lora_run, classifier_run, runs, tmp_path, texts):
    with pytest.raises(UsageError, match="is given twice"):
        rows_of(lora_run.path, texts, "--adapter", lora_run.path)
    with pytest.raises(UsageError, match="compare runs of one kind"):
        rows_of(lora_run.path, texts, "--adapter", classifier_run.path)
    assert call("merge", lora_run.path, "-o", tmp_path / "merged").exit_code == 0
    for words in ((lora_run.path, "--adapter", tmp_path / "merged"), (tmp_path / "merged", "--base-too")):
        with pytest.raises(UsageError, match="has no adapter"):
            rows_of(words[0], texts, *words[1:])
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "merged", moved)
    on_other = RECIPE.replace('"lorans:nano"', f'"{moved}"')
    elsewhere = run_recipe(tmp_path, on_other, 'training.output_dir="elsewhere"')
    with pytest.raises(UsageError, match="belongs to another base"):
        rows_of(lora_run.path, texts, "--adapter", elsewhere.path)
    with pytest.raises(UsageError, match="--base-too: the base has no trained head"):
        rows_of(classifier_run.path, texts, "--base-too")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "plum", "outputs": 3}\n')
    with pytest.raises(UsageError, match="column `outputs` would be replaced"):
        rows_of(lora_run.path, rows, "--base-too")
