"""The commands on a finished run: what they print, where, and how they fail."""

import json

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import LoransError
from lora_ns.run.directory import RunDir


def lorans(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)


def rows(output):
    return [json.loads(line) for line in output.splitlines()]


def test_train_prints_its_result_as_json(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = lorans("train", "recipe.toml", "--json", "--set", "training.max_steps=1")
    result = json.loads(done.stdout[done.stdout.index("{") :])  # libraries print when they are imported
    assert result["steps"] == 1
    assert result["seal"] == RunDir.open(tmp_path / "run").read().seal.model_dump()


def test_infer_answers_one_text(lora_run):
    done = lorans(
        "infer", lora_run.path, "--input", "What is 12 + 7?", "--json", "--set", "generation.max_new_tokens=4"
    )
    (row,) = rows(done.stdout)
    assert row["messages"] == [{"role": "user", "content": "What is 12 + 7?"}]
    assert row["output_tokens"] <= 4
    assert set(row) == {"messages", "output", "finish_reason", "prompt_tokens", "output_tokens"}


def test_infer_reads_lines_of_standard_input(lora_run):
    done = lorans("infer", lora_run.path, stdin="What is 1 + 1?\nWrite cat in capitals.\n\n")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("way", ["stdin", "file"])
def test_infer_refuses_a_blank_line_that_would_move_the_lines_after_it(lora_run, tmp_path, way):
    lines = "What is 1 + 1?\n \nWrite cat in capitals.\n\nAgain.\n"
    (tmp_path / "in.txt").write_text(lines)
    more = ["--input-file", tmp_path / "in.txt"] if way == "file" else []
    with pytest.raises(LoransError, match=r"(in\.txt|standard input):2: the line is blank, and 1 more \(remove it"):
        lorans("infer", lora_run.path, *more, stdin=lines)


def test_infer_replaces_neither_a_file_nor_a_column_unasked(lora_run, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "output": "mine"}\n')
    (tmp_path / "out.jsonl").write_text("mine")
    asked = ["infer", lora_run.path, "--input-file", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl"]
    with pytest.raises(LoransError, match=r"out\.jsonl: already exists \(.*`--overwrite`"):
        lorans(*asked)
    with pytest.raises(LoransError, match=r"in\.jsonl:2: column `output` would be replaced"):
        lorans(*asked, "--overwrite")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    lorans(*asked, "--overwrite", "--set", "generation.max_new_tokens=2")
    assert len(rows((tmp_path / "out.jsonl").read_text())) == 1


def test_infer_keeps_the_answer_of_an_instruction_beside_its_own(trained, tmp_path, capfd):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say a.", "output": "b"}\n' * 4)
    text = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace('format = "messages"\n', "")
    text = text.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")
    run = trained(text, "training.max_steps=1", "generation.max_new_tokens=2")
    done = lorans("infer", run.path, "--input-file", tmp_path / "rows.jsonl", "--json")
    assert [row["expected"] for row in rows(done.stdout)] == ["b"] * 4
    told = (
        f"note: {tmp_path / 'rows.jsonl'}: not used as input: `output`; `-o` and `--json` keep `output` as `expected`"
    )
    said = capfd.readouterr().err
    assert said.count("not used as input") == said.count(told) == 1


def test_infer_keeps_the_fields_of_the_rows(lora_run, tmp_path):
    given = [{"prompt": "What is 1 + 1?", "id": 7}, {"prompt": "Write cat in capitals.", "id": 8}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    lorans("infer", lora_run.path, "--input-file", tmp_path / "in.jsonl", "--output-file", tmp_path / "out.jsonl")
    written = rows((tmp_path / "out.jsonl").read_text())
    assert [{key: row[key] for key in ("prompt", "id")} for row in written] == given
    assert all("output" in row for row in written)


def test_infer_names_the_row_that_cannot_be_answered_and_writes_nothing(lora_run, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')
    with pytest.raises(LoransError, match=r"in\.jsonl:2: no column `messages`"):
        lorans("infer", lora_run.path, "--input-file", tmp_path / "in.jsonl", "--output-file", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.seed=2", "a trained run cannot be changed"),
        ("generation.max_new_token=2", "did you mean `max_new_tokens`?"),
        ("generation.max_new_tokens=0", "expected a whole number from 1"),
    ],
)
def test_infer_changes_how_it_writes_and_nothing_else(lora_run, override, told):
    with pytest.raises(LoransError) as caught:
        lorans("infer", lora_run.path, "--input", "x", "--set", override)
    assert told in str(caught.value)


def test_infer_prints_a_class_with_its_score(classifier_run):
    name, score = lorans("infer", classifier_run.path, "--input", "WALNUT").stdout.split()
    assert name == "loud"
    assert 0.5 < float(score) <= 1


def test_eval_measures_given_rows(lora_run, classifier_run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 1 + 1?", "completion": "2"}\n')
    result = json.loads(
        lorans("eval", lora_run.path, "--data", tmp_path / "rows.jsonl", "--exact-match", "--json").stdout
    )
    assert result["rows"] == 1
    assert set(result["metrics"]) == {"loss", "perplexity", "exact_match"}
    (tmp_path / "rows.jsonl").write_text('{"text": "WALNUT", "label": "loud"}\n{"text": "walnut", "label": "quiet"}\n')
    result = json.loads(lorans("eval", classifier_run.path, "--data", tmp_path / "rows.jsonl", "--json").stdout)
    assert result["metrics"]["accuracy"] == 1.0


@pytest.mark.parametrize("is_there", [True, False])
def test_merge_writes_the_target_of_a_link(lora_run, tmp_path, is_there):
    if is_there:
        (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    done = lorans("merge", lora_run.path, "-o", tmp_path / "link", "--json")
    assert json.loads(done.stdout)["output"] == str(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target/config.json").is_file()


def test_merge_refuses_a_folder_with_something_in_it(lora_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(LoransError, match="is not empty"):
        lorans("merge", lora_run.path, "--output", tmp_path / "full")
    assert (tmp_path / "full/file").read_text() == "mine"


def test_eval_of_split_texts_measures_every_piece(trained, tmp_path):
    """What stands behind the first `max_seq_length` tokens counts, and the text is measured as it was trained."""
    text = "Once upon a time there was a plum. " * 12
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n")
    recipe = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace('format = "messages"\n', "")
    recipe = recipe.replace("lorans:quickstart/eval.jsonl", "rows.jsonl").replace(
        "max_seq_length = 128", "max_seq_length = 64"
    )
    run = trained(recipe, "sft.on_overflow=split", "training.max_steps=1")

    def measured(text):
        (tmp_path / "other.jsonl").write_text(json.dumps({"text": text}) + "\n")
        return json.loads(lorans("eval", run.path, "--data", tmp_path / "other.jsonl", "--json").stdout)

    whole = measured(text)
    assert whole["truncated"] == 0
    assert whole["metrics"]["loss"] == pytest.approx(run.read().metrics["eval_loss"], abs=1e-3)
    assert measured(text[:-8] + "zebra!! ")["metrics"]["loss"] != whole["metrics"]["loss"]
