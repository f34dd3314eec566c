"""Base, adapter, checkpoints, merged model and other runs answer the same items, and get verdicts on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.answers.kept import keeping
from lora_ns.answers.opened import open_run
from lora_ns.answers.weights import ADAPTER, BASE
from lora_ns.answers.work import compute_here
from lora_ns.cli.app import app
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError
from lora_ns.services.evaluate_suites import System, answer_suites
from lora_ns.suites import ExactMatchSuite, HeldOutSuite


def lorans(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def write_questions(path: Path, count: int = 12) -> Path:
    lines = [
        {"prompt": f"What is {one} + {one + 1}?", "completion": str(2 * one + 1), "group": "odd" if one % 2 else "even"}
        for one in range(count)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(
        tmp_path_factory.mktemp("systems"), RECIPE, "training.save_steps=3", "training.save_total_limit=3"
    )


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "model"
    lorans("merge", run.path, "--output", folder, "--dtype", "float32")
    return folder


@pytest.fixture(scope="module")
def side_by_side(run, merged, lora_run, tmp_path_factory):
    """One evaluation of all systems: its result, and a row for each item."""
    data = write_questions(tmp_path_factory.mktemp("data") / "rows.jsonl")
    base = run.read().base.path
    asked = ["--data", data, "--exact-match", "--checkpoints", "--model", merged, "--model", base, "--json"]
    result = json.loads(lorans("eval", run.path, lora_run.path, *asked).stdout)
    items = [json.loads(line) for line in (Path(result["saved"]) / "items.jsonl").read_text().splitlines()]
    return result, items


def figures(result, suite):
    (found,) = (one["whole"]["figures"] for one in result["suites"] if one["name"] == suite)
    return found


def test_each_system_gets_every_figure(side_by_side, run, lora_run, merged):
    result, items = side_by_side
    systems = {"adapter", "base", lora_run.path.name, merged.name, Path(run.read().base.path).name}
    systems |= {"checkpoint-3", "checkpoint-6"}
    for suite, names in (("held-out", {"loss", "perplexity"}), ("exact-match", {"exact_match"})):
        assert figures(result, suite).keys() == names
        assert all(by_system.keys() == systems for by_system in figures(result, suite).values())
    assert {item["suite"] for item in items} == {"held-out", "exact-match"}
    assert all(item["answers"].keys() == systems for item in items)


def test_the_adapter_switched_off_is_the_base_that_is_loaded_alone(side_by_side, run):
    result, items = side_by_side
    alone = Path(run.read().base.path).name
    loss = figures(result, "held-out")["loss"]
    assert loss["base"]["value"] == pytest.approx(loss[alone]["value"], rel=1e-5)
    assert loss["base"]["value"] != pytest.approx(loss["adapter"]["value"], rel=1e-2)
    texts = [item["answers"] for item in items if item["suite"] == "exact-match"]
    assert [text["base"] for text in texts] == [text[alone] for text in texts]


def test_adapter_last_checkpoint_and_merged_model_are_equal_item_by_item(side_by_side, merged):
    result, items = side_by_side
    for item in items:
        own = item["answers"]["adapter"]
        for system in ("checkpoint-6", merged.name):
            assert item["answers"][system] == pytest.approx(own, rel=1e-4) if item["suite"] == "held-out" else own
    contests = [one for suite in result["suites"] for one in suite["whole"]["contests"]]
    equal = [one for one in contests if one["system"] == "checkpoint-6" and one["against"] == "adapter"]
    assert [one["verdict"] for one in equal] == ["cannot tell"] * 3


def test_a_second_evaluation_does_not_ask_the_base_again(run, monkeypatch):
    opened = open_run(run)
    asked: list[str] = []
    compute = compute_here(opened)

    def counting(tasks, on_result=lambda *_: None):
        asked.extend(task.weights for task in tasks)
        return compute(tasks, on_result)

    rows = [Row("row", {"prompt": "What is 40 + 2?", "completion": "42"})]
    systems = [System("adapter", opened), System("base", opened, BASE)]
    once, again = (
        answer_suites(systems, [HeldOutSuite()], lambda _: rows, lambda _: keeping(opened, counting)) for _ in range(2)
    )
    assert once[0].answers == again[0].answers
    assert asked == [ADAPTER, BASE, ADAPTER]


def test_batch_sizes_change_no_figure(run, tmp_path):
    lines = write_questions(tmp_path / "rows.jsonl", 10).read_text().splitlines()
    rows = [Row(f"row {number}", json.loads(line)) for number, line in enumerate(lines)]
    found = []
    for size in (1, 4, 16):
        opened = open_run(run)
        generation = opened.manifest.recipe.generation.model_copy(update={"batch_size": size, "max_new_tokens": 8})
        recipe = opened.manifest.recipe.model_copy(update={"generation": generation})
        sized = replace(opened, manifest=opened.manifest.model_copy(update={"recipe": recipe}))
        systems = [System("adapter", sized), System("base", sized, BASE)]
        suites = [HeldOutSuite(), ExactMatchSuite()]
        found.append([one.answers for one in answer_suites(systems, suites, lambda _: rows, compute_here)])
    assert found[0] == found[1] == found[2]


def test_gates_decide_the_exit_code(run, tmp_path):
    data = write_questions(tmp_path / "rows.jsonl", 6)
    asked = ["eval", run.path, "--data", data, "--suite", "number", "--junit", tmp_path / "eval.xml", "--show", "2"]
    done = lorans(*asked, "--fail-under", "number.number=1.01")
    assert done.exit_code == 1
    assert "failed: number.number is " in done.stdout
    assert 'failures="1"' in (tmp_path / "eval.xml").read_text()
    assert lorans(*asked, "--fail-under", "number.number=0").exit_code == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--suite", "nunber"), "did you mean `number`?"),
        (("--suite", "regex"), "the suite `regex` needs `pattern`"),
        (("--model", "run/adapter"), "is an adapter or a run"),
        (("run",), "is given twice"),
        (("--fail-under", "loss"), "is no figure with a number"),
    ],
)
def test_what_cannot_be_asked_is_refused(run, tmp_path, monkeypatch, more, told):
    monkeypatch.chdir(run.path.parent)
    data = write_questions(tmp_path / "rows.jsonl", 2)
    with pytest.raises(LoransError) as caught:
        lorans("eval", run.path, *more, "--data", data)
    assert told in str(caught.value)


def test_a_run_of_labels_has_no_suites(classifier_run):
    with pytest.raises(LoransError, match="writes no text"):
        lorans("eval", classifier_run.path, "--suite", "number", "--data", classifier_run.path.parent / "classes.jsonl")


def test_suites_with_files_of_their_own_need_no_other_rows(trained, tmp_path):
    write_questions(tmp_path / "questions.jsonl", 3)
    recipe = RECIPE.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")
    suite = '[[evaluation.suites]]\nkind = "number"\npath = "questions.jsonl"\n'
    run = trained(f"{recipe}{suite}", "training.max_steps=1")
    result = json.loads(lorans("eval", run.path, "--json").stdout)
    assert [one["name"] for one in result["suites"]] == ["number"]
    assert result["rows"] == 3


def test_rows_in_the_form_of_a_suite_alone_are_asked_by_it_alone(run, tmp_path):
    row = {"question": "What is 1 + 1?", "choices": ["2", "3"], "answer": 0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    done = lorans("eval", run.path, "--data", tmp_path / "rows.jsonl", "--suite", "choice", "--json")
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["suites"]] == ["choice"]
    (note,) = (note for note in found["notes"] if "not in the format of the run" in note)
    assert note.endswith("`held-out`")


def test_figures_of_one_row_have_no_interval_and_are_json(run, tmp_path):
    data = write_questions(tmp_path / "rows.jsonl", 1)
    done = lorans("eval", run.path, "--data", data, "--json")
    assert {"Infinity", "-Infinity", "NaN"}.isdisjoint(done.stdout.replace(",", " ").split())
    assert figures(json.loads(done.stdout), "held-out")["loss"]["adapter"]["low"] is None
    assert "(too few items for an interval)" in lorans("eval", run.path, "--data", data).stdout
