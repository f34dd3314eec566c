"""`lorans validate` finds what was planted in the rows, and names it; its further levels build and train for real."""

import json

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, class_rows
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import InterruptedRunError, LoransError, Problem
from lora_ns.machine.libraries import Noise
from lora_ns.methods import METHODS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.validate import validate_step

PLAIN = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace(
    "lorans:quickstart/eval.jsonl", "eval.jsonl"
)
PLAIN = PLAIN.replace("max_samples = 64\n", "").replace("max_eval_samples = 8\n", "")


@pytest.fixture
def validate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(text, *arguments):
        (tmp_path / "recipe.toml").write_text(text)
        return CliRunner().invoke(app, ["validate", "recipe.toml", *arguments], catch_exceptions=False)

    return run


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def findings(done):
    return {finding["code"]: finding for finding in json.loads(done.stdout)["data"]["findings"]}


def test_what_is_planted_in_ten_thousand_rows_is_found_and_named(validate, tmp_path):
    rows = [{"prompt": f"What is {number} + 1?", "completion": f"{number + 1}"} for number in range(10_000)]
    rows[7_000] = dict(rows[123])
    rows[4_321] = {"prompt": "Say plum.", "completion": "plum " * 60}
    rows[5_000] = {"prompt": "x" * 300, "completion": "y"}
    held_out = [
        dict(rows[77]),
        {"prompt": " what IS 78 + 1", "completion": "79!"},
        {"prompt": "new", "completion": "n"},
    ]
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "eval.jsonl", held_out)
    done = validate(f'{PLAIN}on_overflow = "truncate"\n', "--data", "--json")
    found = findings(done)
    assert done.exit_code == 2
    assert found["DUP001"]["rows"] == ["rows.jsonl:7001 (as rows.jsonl:124)"]
    assert found["EOS003"]["rows"] == ["rows.jsonl:4322"]
    assert found["MASK001"]["rows"] == ["rows.jsonl:5001"]
    assert found["LEAK001"]["rows"] == ["eval.jsonl:1 (as rows.jsonl:78)"]
    assert found["LEAK002"]["rows"] == ["eval.jsonl:2 (as rows.jsonl:79)"]
    assert set(found) == {"DUP001", "EOS003", "MASK001", "LEAK001", "LEAK002"}
    assert [code for code, finding in found.items() if finding["error"]] == ["MASK001"]
    report = json.loads(done.stdout)["data"]["train"]
    assert (report["rows"], report["sequences"], report["truncated"]) == (10_000, 9_999, 2)
    assert sum(count for _, count in report["histogram"]) == 9_999


def test_rows_without_a_fault_are_ok_and_warnings_are_errors_if_asked(validate, tmp_path):
    rows = [{"prompt": f"What is {number} + 1?", "completion": f"{number + 1}"} for number in range(20)]
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "eval.jsonl", [{"prompt": "a", "completion": "b"}])
    assert validate(PLAIN, "--data").exit_code == 0
    write(tmp_path / "rows.jsonl", [*rows, rows[3]])
    done = validate(PLAIN, "--data")
    assert done.exit_code == 0
    assert "warning: [DUP001] rows.jsonl: duplicate rows: 1 row: rows.jsonl:21 (as rows.jsonl:4)" in (
        done.stdout.replace(f"{tmp_path}/", "")
    )
    assert validate(PLAIN, "--data", "--strict").exit_code == 2


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (64, "evaluation rows: 64, enough to show a difference of 12 points or more in right answers"),
        (1, "evaluation rows: 1, too few to show any difference in right answers"),
    ],
)
def test_the_difference_that_evaluation_rows_can_show_is_noted(validate, tmp_path, rows, note):
    for name, start, count in (("rows", 100, 20), ("eval", 0, rows)):
        pairs = [{"prompt": f"{number} + 1?", "completion": str(number + 1)} for number in range(start, start + count)]
        write(tmp_path / f"{name}.jsonl", pairs)
    assert note in json.loads(validate(PLAIN, "--data", "--json").stdout)["data"]["notes"]


def test_evaluation_rows_with_scores_are_not_called_right_or_wrong(validate, tmp_path):
    write(tmp_path / "classes.jsonl", [{"text": f"row {number}", "label": number / 7} for number in range(16)])
    done = validate(CLASSES, "--data", "--json")
    assert [note for note in json.loads(done.stdout)["data"]["notes"] if "right answers" in note] == []


def test_rows_with_faults_are_named_also_if_the_others_are_too_few_for_a_step(validate, tmp_path):
    rows = [{"prompt": f"What is {number} + 1?"} for number in range(20)]
    write(tmp_path / "rows.jsonl", [*rows, {"prompt": "What?", "answer": "That."}])
    rewards = '[grpo]\nmax_completion_length = 8\nmax_seq_length = 80\n[[grpo.rewards]]\nname = "exact"\n'
    done = validate(PLAIN.partition("[dataset]")[0] + OF_PROMPTS + rewards, "--data", "--json")
    assert len(findings(done)["DATA001"]["rows"]) == 20


OF_PROMPTS = """
[dataset]
path = "rows.jsonl"

[training]
output_dir = "run"
"""


def test_a_cut_that_leaves_no_row_its_end_token_is_an_error(validate, tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "plum " * 60}])
    write(tmp_path / "eval.jsonl", [{"prompt": "a", "completion": "b"}])
    done = validate(f'{PLAIN}on_overflow = "truncate"\n', "--data", "--json")
    assert findings(done)["EOS002"]["error"]
    assert done.exit_code == 2


def test_a_shown_row_has_marks_around_what_is_trained(validate, tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "a?", "completion": "b"}, {"prompt": "c?", "completion": "d"}])
    write(tmp_path / "eval.jsonl", [{"prompt": "e?", "completion": "f"}])
    first = validate(PLAIN, "--show", "1").stdout
    assert "rows.jsonl:1: " in first
    assert "a?" in first.split("«")[0]
    assert first.split("«")[1].split("»")[0].startswith("b")
    assert "c?" not in first
    assert "rows.jsonl:2: " in validate(PLAIN, "--row", "2").stdout
    by_ids = validate(PLAIN, "--row", "2", "--ids").stdout
    assert "trained special" in by_ids
    with pytest.raises(
        LoransError, match=r"--row: no row 3 \(there are 2 rows, from .*rows.jsonl:1 to .*rows.jsonl:2\)"
    ):
        validate(PLAIN, "--row", "3")
    with pytest.raises(LoransError, match="--ids"):
        validate(PLAIN, "--ids")


def test_a_row_is_the_one_that_the_file_calls_so_whatever_became_of_it(validate, tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]
    lines = [
        json.dumps({"prompt": "first?", "completion": "1"}),
        "",
        json.dumps({"prompt": "third?", "completion": "long " * 60}),
        json.dumps({"prompt": "fourth?", "completion": "<|im_end|> and on"}),
        json.dumps({"prompt": turns[:1], "completion": turns[1:]}),
        "no json",
        json.dumps({"prompt": "seventh?", "completion": "7"}),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    write(tmp_path / "eval.jsonl", [{"prompt": "e?", "completion": "f"}])
    text = PLAIN.replace("[dataset]", "[dataset]\nmax_bad_rows = 1") + 'on_overflow = "drop"\non_stop_token = "drop"\n'
    assert "seventh?" in validate(text, "--row", "7").stdout
    assert "rows.jsonl:3: not used for training: [LEN001]" in validate(text, "--row", "3").stdout
    assert "rows.jsonl:4: not used for training: left out: its answer contains a stop token as text" in (
        validate(text, "--row", "4").stdout
    )
    assert "rows.jsonl:5: not used for training: [MASK001] no token" in validate(text, "--row", "5").stdout
    with pytest.raises(LoransError, match=r"rows.jsonl:6: left out: not JSON"):
        validate(text, "--row", "6")
    with pytest.raises(LoransError, match="no row 2"):
        validate(text, "--row", "2")
    several = validate(text, "--show", "3").stdout
    assert [f"rows.jsonl:{number}: " in several for number in (1, 3, 4, 5)] == [True, True, True, False]


def test_a_row_of_a_reward_model_is_scored_as_a_whole(validate, tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}])
    write(tmp_path / "eval.jsonl", [{"prompt": "d?", "chosen": "e", "rejected": "f"}])
    text = PLAIN.replace('format = "messages"\n', "").replace("[sft]", "[reward]").replace("CAUSAL_LM", "SEQ_CLS")
    shown = validate(text, "--show", "1").stdout
    assert [f"scored as a whole, {side}" in shown for side in ("chosen", "rejected")] == [True, True]
    assert "«" not in shown
    assert "trained" not in shown
    found = json.loads(validate(text, "--show", "1", "--json").stdout)
    assert [row["trained_tokens"] for row in found["rows"]] == [0, 0]
    assert found["data"]["train"]["trained_tokens"] == 0


def test_a_row_of_several_sequences_shows_all_of_them(validate, tmp_path):
    write(tmp_path / "rows.jsonl", [{"text": "Short."}, {"text": "Once upon a time. " * 30}])
    write(tmp_path / "eval.jsonl", [{"text": "Other."}])
    text = PLAIN.replace('format = "messages"\n', "") + 'on_overflow = "split"\n'
    shown = json.loads(validate(text, "--row", "2", "--json").stdout)["rows"]
    assert len(shown) > 1
    assert [part["note"] for part in shown] == [f"sequence {n} of {len(shown)}" for n in range(1, len(shown) + 1)]


OVERLONG = {
    "drop": (PLAIN, {"prompt": "a", "completion": "plum " * 300}, '"drop"` or "truncate-prompt"'),
    "split": (PLAIN.replace('format = "messages"\n', ""), {"text": "plum " * 300}, '"split"` or "drop"'),
}


@pytest.mark.parametrize("kind", OVERLONG)
def test_rows_that_are_too_long_are_one_finding_with_advice_that_the_base_can_follow(validate, tmp_path, kind):
    text, long, choices = OVERLONG[kind]
    short = dict.fromkeys(long, "plum " * 40)
    write(tmp_path / "rows.jsonl", [short, short, long])
    write(tmp_path / "eval.jsonl", [dict.fromkeys(long, "b")])
    found = findings(validate(text, "--data", "--json"))["LEN001"]
    assert found["error"]
    assert [row.split(" ")[0] for row in found["rows"]] == [f"rows.jsonl:{number}" for number in (1, 2, 3)]
    assert found["what"].startswith("sft.max_seq_length: 3 of 3 rows longer than 128 tokens, the longest has ")
    assert found["remedy"].startswith("write at most 512, and `on_overflow = ")
    assert choices in found["remedy"]
    write(tmp_path / "rows.jsonl", [short, short])
    assert findings(validate(text, "--data", "--json"))["LEN001"]["remedy"].split(",")[0] in (
        f"write {longest}" for longest in range(129, 513)
    )


OFTEN = {"lora", "adalora", "loha", "vera", "oft", "fourierft", "ia3", "prefix-tuning"}
"""A method of each family."""


@pytest.mark.parametrize(
    "method",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.matrix)
        for name in METHODS
        if name != "trainable-tokens"
    ],
)
def test_the_model_is_adapted_without_weights_and_counts_what_training_counts(validate, method, trained):
    text = RECIPE.replace('method = "lora"', f'method = "{method}"')
    report = json.loads(validate(text, "--model", "--json").stdout)["model"]
    run = trained(text, "training.max_steps=3", "training.global_batch_size=2", "dataset.max_eval_samples=2")
    assert report["trainable_parameters"] == run.read().base.trainable_parameters
    assert bool(report["modules"]) != METHODS[method].capabilities.virtual_tokens


def test_a_target_that_matches_nothing_is_found_without_weights(validate):
    with pytest.raises(LoransError, match=r"recipe.toml:8: .*`q_prj` matches no module .*did you mean `q_proj`"):
        validate(RECIPE.replace('method = "lora"', 'method = "lora"\ntarget_modules = ["q_prj"]'), "--model")


def test_settings_far_from_what_works_are_said_with_the_model_as_in_the_plan(validate):
    unusual = RECIPE.replace("[dataset]", 'target_modules = ["q_proj"]\n[dataset]')
    done = validate(
        unusual, "--model", "--json", "--set", "training.learning_rate=0.5", "--set", "training.global_batch_size=128"
    )
    notes = " ".join(json.loads(done.stdout)["model"]["notes"])
    for key in ("training.learning_rate: 0.5", "global_batch_size: 128", "all-linear"):
        assert key in notes


def test_the_one_step_changes_the_adapter(write_recipe):
    changed = []

    class Spy(SilentObserver):
        def saving(self, model, tokenizer):
            changed.extend(bool(value.any()) for name, value in model.named_parameters() if "lora_B" in name)

    with Noise() as noise:
        validate_step(load_recipe(write_recipe(RECIPE)), Spy(), noise)
    assert changed
    assert all(changed)


def test_one_real_step_leaves_nothing_behind(validate, tmp_path):
    done = validate(RECIPE, "--step", "--json")
    assert json.loads(done.stdout)["step"]["loss"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml"]


def test_a_classifier_is_validated_as_well(validate, tmp_path):
    write(tmp_path / "classes.jsonl", class_rows())
    done = validate(CLASSES, "--data", "--model", "--step", "--show", "1", "--json")
    found = json.loads(done.stdout)
    assert found["data"]["train"]["rows"] == 16
    assert found["data"]["findings"][0]["code"] == "LEAK001"
    assert found["rows"][0]["label"] == "quiet"
    assert found["step"]["loss"] > 0


def test_a_signal_during_the_step_leaves_nothing_that_could_be_continued(write_recipe, monkeypatch):
    def stopped(*_, **__):
        raise InterruptedRunError(15, Problem("", "stopped after step 1", "`lorans train run --resume` continues it"))

    monkeypatch.setattr("lora_ns.services.validate.train", stopped)
    with Noise() as noise, pytest.raises(InterruptedRunError, match="nothing was kept") as caught:
        validate_step(load_recipe(write_recipe(RECIPE)), SilentObserver(), noise)
    assert caught.value.signal_number == 15
    assert "resume" not in str(caught.value)


@pytest.mark.parametrize("level", ["--data", "--model", "--step"])
def test_a_fault_is_json_too(validate, level):
    done = validate(PLAIN.replace("lorans:nano", "./nowhere"), level, "--json")
    assert done.exit_code == 2
    assert "no folder `./nowhere`" in json.loads(done.stdout)["problems"][0]["what"]


def test_rows_that_mixing_repeats_are_shown_once_and_in_their_own_format(validate, tmp_path):
    """One file, read in two ways; the first source is repeated."""
    write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b", "text": "plum"}] * 2)
    text = RECIPE.replace('path = "lorans:quickstart/train.jsonl"\n', "", 1).replace('format = "messages"\n', "")
    text = text.replace("max_samples = 64\n", 'stopping_strategy = "all_exhausted"\n')
    text = text.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")
    for format_ in ("messages", "text"):
        text += f'[[dataset.sources]]\npath = "rows.jsonl"\nweight = 1\nformat = "{format_}"\n'
    found = json.loads(validate(text, "--data", "--show", "9", "--json").stdout)
    shown = sorted(("".join(piece["text"] for piece in row["pieces"]), row["where"]) for row in found["rows"])
    assert [("plum" in text, where.rpartition(":")[2]) for text, where in shown] == [
        (False, "1"),
        (False, "2"),
        (True, "1"),
        (True, "2"),
    ]
    assert all(not row["note"] for row in found["rows"])
