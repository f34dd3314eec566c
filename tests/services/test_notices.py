"""What spoils a run in silence is told by `train` as by `validate --data`; what must not be learned is refused."""

import json

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import DataError
from lora_ns.run.observer import SilentObserver

PLAIN = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace("max_samples = 64\n", "")
PLAIN = PLAIN.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")
PLAIN = PLAIN.replace("max_steps = 6", "max_steps = 1")
GOOD = [{"prompt": f"What is {number} + 1?", "completion": f"{number + 1}"} for number in range(8)]


class Listener(SilentObserver):
    def __init__(self):
        self.told = []

    def warn(self, text):
        self.told.append(text)


def write(folder, *rows, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in (*GOOD, *rows)))


def train(folder, *overrides, text=PLAIN):
    observer = Listener()
    run_recipe(folder, text, "training.output_dir=run", *overrides, observer=observer)
    return observer.told


def validate(folder, *overrides, text=PLAIN):
    (folder / "recipe.toml").write_text(text)
    arguments = [part for override in overrides for part in ("--set", override)]
    done = CliRunner().invoke(app, ["validate", "recipe.toml", "--data", "--json", *arguments], catch_exceptions=False)
    return {finding["code"]: finding for finding in json.loads(done.stdout)["data"]["findings"]}


SPOILT = {
    "SPEC001": {"prompt": "What is <|im_end|>?", "completion": "A token."},
    "DATA002": {"prompt": " ", "completion": "Nothing was asked."},
}


@pytest.mark.parametrize("code", SPOILT)
def test_a_row_that_is_trained_on_all_the_same_is_told_by_both(tmp_path, code):
    write(tmp_path, SPOILT[code])
    found = validate(tmp_path)
    assert list(found) == [code]
    assert not found[code]["error"]
    assert found[code]["rows"][0].startswith("rows.jsonl:9")
    (note,) = [note for note in train(tmp_path) if code in note]
    assert note.startswith(f"training rows: [{code}]")
    assert f"1 row, the first at {tmp_path}/rows.jsonl:9" in note
    again = [note for note in train(tmp_path, f"training.output_dir={tmp_path}/again") if code in note]
    assert again == [note], "rows that were kept are told of, too"


def test_rows_without_a_fault_are_not_told_of(tmp_path):
    write(tmp_path)
    assert validate(tmp_path) == {}
    assert not [note for note in train(tmp_path) if "[" in note]


STOPPED = {"prompt": "How does a turn end?", "completion": "With <|im_end|>, then a line break."}


def test_a_stop_token_within_an_answer_is_refused_with_what_to_do(tmp_path):
    write(tmp_path, STOPPED)
    found = validate(tmp_path)
    assert list(found) == ["SPEC002"]
    assert (found["SPEC002"]["error"], found["SPEC002"]["rows"]) == (True, ["rows.jsonl:9"])
    assert 'on_stop_token = "drop"' in found["SPEC002"]["remedy"]
    with pytest.raises(
        DataError, match=r"rows.jsonl:9: \[SPEC002\] an answer spells out `<\|im_end\|>` before its end"
    ):
        train(tmp_path)


@pytest.mark.parametrize(("choice", "rows", "code"), [("drop", 8, "SPEC002"), ("keep", 9, "SPEC001")])
def test_a_stop_token_within_an_answer_goes_as_the_recipe_says(tmp_path, choice, rows, code):
    write(tmp_path, STOPPED)
    found = validate(tmp_path, f"sft.on_stop_token={choice}")
    assert list(found) == [code]
    assert not found[code]["error"]
    notes = train(tmp_path, f"sft.on_stop_token={choice}")
    assert [note.split("]")[0] for note in notes if "[" in note] == [f"training rows: [{code}"]
    record = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["train"]
    assert (record["rows"], record["dropped"]) == (9, 9 - rows)


def test_rows_that_are_all_left_out_are_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(STOPPED) + "\n")
    with pytest.raises(DataError, match=r"SPEC002.*all rows are left out"):
        train(tmp_path, "sft.on_stop_token=drop")


def test_rows_that_never_teach_to_stop_are_refused_by_both(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "plum " * 60}) + "\n")
    text = f'{PLAIN}on_overflow = "truncate"\n'
    assert validate(tmp_path, text=text)["EOS002"]["error"]
    with pytest.raises(DataError, match=r"rows.jsonl: \[EOS002\] no row teaches the model to stop"):
        train(tmp_path, text=text)
    assert not (tmp_path / "run").exists()


def test_rows_that_are_only_evaluated_teach_nothing_and_may_be_cut(tmp_path):
    write(tmp_path)
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "a", "completion": "plum " * 60}) + "\n")
    text = f'{PLAIN}on_overflow = "truncate"\n'.replace("[training]", 'eval_path = "eval.jsonl"\n[training]')
    assert not validate(tmp_path, text=text)["EOS003"]["error"]
    (note,) = [note for note in train(tmp_path, text=text) if "EOS" in note]
    assert note.startswith("evaluation rows: [EOS003] ")


NOT_LEARNED = {
    "`train` is false for each answer": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "train": False},
    ],
    "`messages` has no turns": [],
}


@pytest.mark.parametrize("cause", NOT_LEARNED)
def test_a_row_that_teaches_nothing_says_why(tmp_path, cause):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": turns}, {"messages": NOT_LEARNED[cause]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (finding,) = [found for found in validate(tmp_path).values() if found["error"]]
    assert cause in finding["what"]
    assert "remove the row" in finding["remedy"]
    assert "prompt" not in finding["remedy"]
    assert finding["rows"] == ["rows.jsonl:2"]


def test_the_last_answer_alone_may_be_the_one_that_is_not_learned(tmp_path):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "train": False},
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    found = validate(tmp_path, "sft.train_on=last")["MASK001"]
    assert found["what"].endswith("`train` is false for its last answer")
    assert validate(tmp_path) == {}


@pytest.mark.parametrize("packing", ["true", "false"])
def test_evaluation_rows_that_are_trained_on_are_told_by_training(tmp_path, packing):
    write(tmp_path)
    (tmp_path / "eval.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (GOOD[3], {**GOOD[4], "prompt": "?"}))
    )
    overrides = ["dataset.eval_path=eval.jsonl", f"sft.packing={packing}"]
    assert validate(tmp_path, *overrides)["LEAK001"]["rows"] == ["eval.jsonl:1 (as rows.jsonl:4)"]
    for folder in ("run", "again"):
        notes = train(tmp_path, *overrides, f"training.output_dir={tmp_path / folder}")
        assert [note for note in notes if "LEAK001" in note] == [
            "evaluation rows: [LEAK001] 1 of 2 are also training rows (`lorans validate --data` lists them)"
        ]


def without_format(text):
    return text.replace('format = "messages"\n', "").replace("rows.jsonl", "{name}")


CHAT = "User: What is 1 + 1?\nAssistant: 2\n"


def test_a_text_that_is_a_conversation_is_told(tmp_path):
    (tmp_path / "rows.txt").write_text(CHAT)
    text = without_format(PLAIN).replace("{name}", "rows.txt")
    assert list(validate(tmp_path, text=text)) == ["DATA003"]
    assert any("[DATA003]" in note and ".jsonl" in note for note in train(tmp_path, text=text))
    (tmp_path / "rows.txt").write_text("The assistant: a novel.\nOnce upon a time.\n")
    assert validate(tmp_path, text=text) == {}


def test_a_text_file_is_no_row_of_a_conversation(tmp_path):
    (tmp_path / "rows.txt").write_text(CHAT)
    with pytest.raises(DataError, match=r"rows.txt: a .txt file is one text .*write a .jsonl file"):
        train(tmp_path, text=PLAIN.replace("rows.jsonl", "rows.txt"))


@pytest.mark.parametrize("more", [(), ("dataset.prompt_template={question}", "dataset.completion_template={answer}")])
@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_a_table_without_a_header_says_what_its_first_line_is(tmp_path, kind, more):
    mark = {"tsv": "\t", "csv": ","}[kind]
    (tmp_path / f"rows.{kind}").write_text(f"What is 1 + 1?{mark}2\nWhat is 2 + 1?{mark}3\n")
    with pytest.raises(DataError, match="the first line is the header: if it is a row, write `column_names"):
        train(tmp_path, *more, text=without_format(PLAIN).replace("{name}", f"rows.{kind}"))


def test_a_header_among_the_rows_of_a_table_is_told_as_the_only_row_of_its_class(tmp_path):
    rows = "".join(f"plum {number}\t{number % 2}\n" for number in range(80))
    (tmp_path / "rows.txt").write_text(f"sentence\tQuality\n{rows}")
    text = CLASSES.replace('path = "classes.jsonl"\neval_path = "classes.jsonl"', 'path = "rows.txt"')
    text = text.replace("max_steps = 30\nsave_steps = 30\neval_steps = 30", "max_steps = 1")
    names = 'dataset.column_names=["text", "label"]'
    found = validate(tmp_path, names, text=text)
    assert found["LABEL002"]["rows"] == ["rows.txt:1 (`Quality`)"]
    assert any("[LABEL002]" in note and "`Quality`" in note for note in train(tmp_path, names, text=text))
    assert validate(tmp_path, names, 'dataset.slice="1:"', text=text) == {}
    with pytest.raises(DataError, match="if it is a table with tabs, write `column_names"):
        train(tmp_path, f"training.output_dir={tmp_path}/other", text=text)


def test_columns_of_files_that_name_their_own_are_refused(tmp_path):
    write(tmp_path)
    told = (
        r"dataset.column_names: \S*rows.jsonl is not a table without a header \(remove it: it is for .csv, .tsv, .txt\)"
    )
    with pytest.raises(DataError, match=told):
        train(tmp_path, 'dataset.column_names=["text", "label"]')
