"""`lorans import --check`: imported recipes train the same, and every change of one is found."""

import json
from pathlib import Path

import pytest
from command_line import lorans

pytest.importorskip("torch")

from lora_ns.importers.source import parse_source
from lora_ns.machine.hardware import detect
from lora_ns.model.files import packaged
from lora_ns.recipe.load import load_recipe
from lora_ns.services.import_ import import_config
from lora_ns.services.import_check.check import CheckOptions, check_import, compare

HEAD = """\
base_model: lorans:nano
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 2
sequence_len: 512
warmup_steps: 2
max_steps: 6
learning_rate: 2e-4
output_dir: out
"""


ROWS = {
    "alpaca": [
        {"instruction": f"add {n}", "input": "" if n % 2 else f"{n} more", "output": f"It is {n}."} for n in range(8)
    ],
    "chat_template": [
        {
            "messages": [
                {"role": "user", "content": f"How many is {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
                {"role": "user", "content": "And twice that?"},
                {"role": "assistant", "content": f"That is {2 * n}."},
            ]
        }
        for n in range(8)
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": f"Hello, {n}!"}]}
        for n in range(8)
    ],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Writes a configuration with its rows into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(kind, more=""):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[kind])))
        text = f"{HEAD}datasets:\n  - path: rows.jsonl\n    type: {kind}\n{more}"
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path / "config.yaml"

    return write


@pytest.mark.parametrize("kind", ROWS)
def test_an_imported_recipe_trains_the_same(here, kind):
    check = check_import(import_config(here(kind)), detect(), CheckOptions())
    assert [pair.name for pair in check.numbers if not pair.is_equal] == []
    assert check.rates.is_equal
    assert [pair.difference for pair in check.rows.pairs] == [""] * 8
    assert all(pair.theirs.count > 2 for pair in check.rows.pairs)
    assert check.is_proven


# TRL

OF_TRL = """\
model_name_or_path: lorans:nano
use_peft: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 2e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
max_length: 64
output_dir: out
"""


TRL_ROWS = {
    "messages": ROWS["chat_template"],
    "prompt, completion": [{"prompt": f"{n} and {n} is", "completion": f" {2 * n}."} for n in range(8)],
    "text": [{"text": f"{n} and {n} is {2 * n}. " * 20} for n in range(8)],
}


@pytest.fixture
def here_for_trl(tmp_path, monkeypatch):
    """Writes a configuration of TRL with its rows into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(columns, more="", rows=None):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows or TRL_ROWS[columns])))
        entry = f"datasets: [{{path: json, data_files: rows.jsonl, columns: [{columns}]}}]\n"
        (tmp_path / "config.yaml").write_text(f"{OF_TRL}{entry}{more}")
        return tmp_path / "config.yaml"

    return write


@pytest.mark.parametrize("columns", TRL_ROWS)
def test_an_imported_recipe_trains_the_same_as_trl(here_for_trl, columns):
    check = check_import(import_config(here_for_trl(columns)), detect(), CheckOptions())
    assert [pair.name for pair in check.numbers if not pair.is_equal] == []
    assert [pair.difference for pair in check.rows.pairs] == [""] * 8
    assert all(pair.theirs.count > 2 for pair in check.rows.pairs)
    assert check.is_proven


TRL_DIFFERENCES = [
    ("messages", "", 'sft.train_on="assistant"', "loss on", "TRL trains on all tokens of conversations"),
    ("prompt, completion", "completion_only_loss: false\n", 'sft.train_on="assistant"', "loss on", "`completion_only"),
    ("prompt, completion", "", 'dataset.format="messages"', "", "differs from token 1 on"),
    ("text", "", "sft.max_seq_length=32", "max length", "ends before it in this recipe"),
]


@pytest.mark.parametrize(("columns", "more", "change", "number", "said"), TRL_DIFFERENCES)
def test_a_recipe_that_no_longer_trains_as_trl_is_caught(here_for_trl, columns, more, change, number, said):
    imported = import_config(here_for_trl(columns, more))
    loaded = load_recipe(Path("recipe.toml"), [change], text=imported.text)
    check = compare(loaded, imported.translation.source, "trl", detect(), CheckOptions(rows=2))
    assert [pair.name for pair in check.numbers if not pair.is_equal] == [number] * bool(number)
    assert said in check.rows.different[0].difference


@pytest.mark.parametrize("row", [{"messages": []}, {"messages": [1]}, {"messages": "no turns"}, {"messages": None}])
def test_rows_at_which_trl_stops_are_no_traceback(here_for_trl, row):
    path = here_for_trl("messages", rows=[row, *TRL_ROWS["messages"]])
    assert not check_import(import_config(path), detect(), CheckOptions()).is_proven


CHANGES = [
    ("alpaca", "", 'sft.train_on="all"', "axolotl trains on", '`sft.train_on = "all"`'),
    ("alpaca", "train_on_inputs: true\n", 'sft.train_on="assistant"', "axolotl trains on", "`train_on_inputs: true`"),
    ("chat_template", "", 'sft.train_on="last"', "axolotl trains on", "only axolotl trains on token"),
    ("alpaca", "", 'dataset.completion_template=" {output}"', "differs from token", "this recipe"),
    ("alpaca", "", "sft.max_seq_length=8", "this recipe leaves out row 1", "longer than"),
    (
        "sharegpt",
        "",
        'sft.chat_template="other.jinja"',
        "row 1 differs from token 1 on: axolotl has",
        "this recipe `Note`",
    ),
]


@pytest.mark.parametrize(("kind", "more", "change", "difference", "why"), CHANGES)
def test_a_recipe_that_was_changed_is_caught_in_words(here, kind, more, change, difference, why):
    imported = import_config(here(kind, more))
    Path("other.jinja").write_text(f"Note: {packaged('lorans:nano/chat_template.jinja').read_text()}")
    loaded = load_recipe(Path("recipe.toml"), [change], text=imported.text)
    check = compare(loaded, imported.translation.source, "axolotl", detect(), CheckOptions(rows=2))
    assert check.is_different
    assert len(check.rows.different) == 2
    assert difference in check.rows.different[0].difference
    assert why in check.rows.different[0].difference


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("peft.lora_r=4", "rank"),
        ("peft.lora_alpha=8", "scaling"),
        ("training.learning_rate=1e-4", "learning rate"),
        ("training.warmup_steps=3", "warm-up steps"),
        ("training.global_batch_size=8", "global batch size"),
        ('training.optim="adamw_torch"', "optimizer"),
        ('sft.on_overflow="truncate"', "longer rows"),
        ("sft.packing=true", "packing"),
        ('peft.target_modules=["q_proj"]', "target modules"),
    ],
)
def test_a_number_that_was_changed_is_caught(here, change, name):
    imported = import_config(here("alpaca"))
    loaded = load_recipe(Path("recipe.toml"), [change], text=imported.text)
    check = compare(loaded, imported.translation.source, "axolotl", detect(), CheckOptions(rows=1))
    assert name in [pair.name for pair in check.numbers if not pair.is_equal]


@pytest.mark.parametrize(
    "row", [{"messages": "[1, 2]"}, {"messages": [1]}, {"messages": [{"role": ["a"], "content": "b"}]}, {"messages": 3}]
)
def test_rows_of_another_shape_are_no_traceback(here, tmp_path, row):
    path = here("chat_template")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*ROWS["chat_template"], row])))
    check = check_import(import_config(path), detect(), CheckOptions())
    assert not check.is_proven or not check.rows.pairs[-1].theirs.sequences


@pytest.mark.parametrize("more", ["    roles: [a]\n", "    roles: {user: 3}\n", "special_tokens: [a]\n"])
def test_values_of_a_strange_type_are_no_traceback(here, more):
    imported = import_config(here("chat_template"))
    source = parse_source(Path("config.yaml"), Path("config.yaml").read_text() + more)
    check = compare(load_recipe(Path("recipe.toml"), text=imported.text), source, "axolotl", detect(), CheckOptions())
    assert isinstance(check.rows, str)
    assert not check.is_proven


# The command


def test_the_command_proves_an_import_and_says_so(here):
    here("alpaca")
    done = lorans("import", "config.yaml", "-o", "recipe.toml", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows: 8 of 8 have equal tokens and labels" in done.stdout
    assert "learning rate: equal in all 6 steps" in done.stdout
    assert done.stdout.endswith("check passed: this recipe trains as axolotl does\n")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_the_command_exits_with_2_at_a_difference_and_3_without_a_tokenizer(here, tmp_path):
    here("alpaca")
    assert lorans("import", "config.yaml", "-o", "mine.toml").returncode == 0
    text = (tmp_path / "mine.toml").read_text().replace("[sft]\n", '[sft]\ntrain_on = "all"\n')
    (tmp_path / "mine.toml").write_text(text)
    done = lorans("import", "config.yaml", "--check", "--recipe", "mine.toml", "--json")
    found = json.loads(done.stdout)["check"]
    assert done.returncode == 2
    assert (found["same"], found["different"], found["rows"]["same"]) == (False, True, 0)
    assert found["rows"]["rows"][0]["theirs"]["sequences"][0]["labels"].count(-100) > 10
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace("lorans:nano", "no/such-base"))
    done = lorans("import", "config.yaml", "--check")
    assert done.returncode == 3
    assert "not compared: `no/such-base` is not on this machine" in done.stderr
    assert lorans("import", "config.yaml", "--check", "--base", "lorans:nano").returncode == 0


@pytest.mark.parametrize("option", [("--data", "rows.jsonl"), ("--base", "lorans:nano"), ("--recipe", "mine.toml")])
def test_options_of_the_check_need_it(here, option):
    here("alpaca")
    done = lorans("import", "config.yaml", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert "add `--check`" in done.stderr


def test_nothing_is_written_if_the_rows_to_check_are_not_there(here, tmp_path):
    here("alpaca")
    done = lorans("import", "config.yaml", "-o", "new.toml", "--check", "--data", "none.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--data: no file `none.jsonl`" in done.stderr
    assert not (tmp_path / "new.toml").exists()
