"""Scripts: the one command that trains, as keys and values; nothing of it is run."""

from pathlib import Path

import pytest

from lora_ns.errors import UsageError
from lora_ns.importers.source import parse_source
from lora_ns.services.import_ import import_config


def read(text):
    return parse_source(Path("train.sh"), text)


OPTIONS = [
    ("--a 1", {"a": 1}),
    ("--a=1", {"a": 1}),
    ("--a-b x", {"a_b": "x"}),
    ("--a", {"a": True}),
    ("--a --b true", {"a": True, "b": True}),
    ("--a x 2 y", {"a": ["x", 2, "y"]}),
    ("--a 2e-4", {"a": 2e-4}),
    ("--a 'x y' --b \"z w\"", {"a": "x y", "b": "z w"}),
    ("--a x\\ y", {"a": "x y"}),
    ("""--a '{"k": 1}'""", {"a": {"k": 1}}),
    ("--a 1 \\\n  --b 2 \\\n  --c 3", {"a": 1, "b": 2, "c": 3}),
    ("--a 1 # --b 2", {"a": 1}),
    ("--a 'x#5'", {"a": "x#5"}),
    ("--a x#5", {"a": "x#5"}),
    ("--a 1 2>&1 | tee log.txt", {"a": 1}),
    ("--a 1 > log.txt 2>&1 &", {"a": 1}),
    ("--a 1 && echo done", {"a": 1}),
    ("--a $X", {"a": "${X}"}),
    ('--a "${X}/y"', {"a": "${X}/y"}),
    ("--a '$X'", {"a": "$X"}),
    ("--a $(rm -rf /)", {"a": "${ ... }"}),
    ("--a `date`", {"a": "${ ... }"}),
]


@pytest.mark.parametrize(("written", "values"), OPTIONS, ids=[written for written, _ in OPTIONS])
def test_options_are_keys_with_values(written, values):
    source = read(f"swift sft {written}\n")
    assert {key: source.values[key] for key in source.leaves if key != "command"} == values


def test_every_option_has_its_line():
    source = read("#!/bin/bash\n# a note\nswift sft \\\n  --model m \\\n  --dataset 'a\nb' --x 1\n")
    assert {key: source.lines[key] for key in source.leaves} == {"command": 3, "model": 4, "dataset": 5, "x": 6}


GPUS = [
    ("swift sft --a 1", "ms-swift", None),
    ("NPROC_PER_NODE=2 swift sft --a 1", "ms-swift", 2),
    ("NPROC_PER_NODE=4 NNODES=2 \\\nswift sft --a 1", "ms-swift", 8),
    ("export NPROC_PER_NODE=2\nswift sft --a 1", "ms-swift", 2),
    ("NPROC_PER_NODE=$N swift sft --a 1", "ms-swift", None),
    ("echo NPROC_PER_NODE=3; swift sft --a 1", "ms-swift", None),
    ("trl sft --a 1", "trl", None),
    ("torchrun --nproc_per_node 4 trl/scripts/sft.py --a 1", "trl", 4),
    ("accelerate launch --config_file x.yaml --num_processes=8 scripts/sft.py --a 1", "trl", 8),
    ("cd work && python sft.py --a 1", "trl", None),
    ("torchrun --nproc_per_node=2 swift/cli/sft.py --a 1", "ms-swift", 2),
]


@pytest.mark.parametrize(("text", "tool", "gpus"), GPUS)
def test_the_command_says_the_tool_and_its_processes(text, tool, gpus):
    source = read(text)
    assert (source.tool, source.gpus) == (tool, gpus)


REFUSED = [
    ("", "no training command"),
    ("echo swift sft --model m", "no training command"),
    ("swift infer --model m", "no training command"),
    ("# swift sft --model m", "no training command"),
    ("swift sft --a 1\nswift sft --a 2", "several training commands"),
    ("trl sft --config a.yaml --learning_rate 1", "has options in addition to a.yaml"),
    ("trl sft --learning_rate 1 --config a.yaml", "has options in addition to a.yaml"),
    ("llamafactory-cli train a.yaml learning_rate=1", "has options in addition to a.yaml"),
    ("trl sft --config $FILE", "the shell would insert"),
    ("swift sft --a 1\nswift sft --b 'x", "train.sh:2: this quote is not closed"),
    ('swift sft --a "x', "this quote is not closed"),
    ("trl sft --config train.sh", "is not a YAML or JSON file"),
    ("trl sft --config nowhere.yaml", "nowhere.yaml"),
]


@pytest.mark.parametrize(("text", "what"), REFUSED)
def test_what_is_not_one_training_is_refused(text, what):
    with pytest.raises(UsageError, match=what):
        read(text)


def test_the_file_that_the_command_names_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("model_name_or_path: a/b\nuse_peft: true\ndataset_name: rows.jsonl\n")
    Path("train.sh").write_text("accelerate launch --num_processes 4 x/sft.py --config c.yaml\n")
    imported = import_config(Path("train.sh"))
    assert imported.translation.source.path == Path("c.yaml")
    assert imported.translation.recipe["training.global_batch_size"] == 32
    assert import_config(Path("train.sh"), gpus=1).translation.recipe["training.global_batch_size"] == 8


AXOLOTL = (
    "base_model: a\nadapter: lora\nmicro_batch_size: 2\nsequence_len: 8\ndatasets: [{path: a/b, type: completion}]\n"
)


@pytest.mark.parametrize("command", ["axolotl train c.yaml", "accelerate launch -m axolotl.cli.train c.yaml"])
def test_the_file_of_a_tool_without_options_is_read(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(AXOLOTL)
    Path("train.sh").write_text(f"export CUDA_VISIBLE_DEVICES=0\n{command}\n")
    assert import_config(Path("train.sh")).translation.tool == "axolotl"


def test_nothing_of_a_script_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.sh").write_text("touch ran\nswift sft --model $(touch ran) --dataset `touch ran`\n")
    assert import_config(Path("train.sh")).text is None
    assert not Path("ran").exists()


def test_a_secret_of_the_environment_is_not_shown(translate):
    translation = translate("WANDB_API_KEY=abcdef swift sft --model m --dataset a.jsonl", name="train.sh")
    end = next(outcome for outcome in translation.outcomes if outcome.key == "environment.WANDB_API_KEY")
    assert end.fate == "unused"
    assert "abcdef" not in end.shown
