"""Help in groups, and the way from a wrong option or command to the right one."""

import re

import pytest
from command_line import lorans

from lora_ns.cli.app import COMMANDS, app


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "r.toml", "--lr", "2e-4"], "write `--set training.learning_rate=2e-4`"),
        (["train", "r.toml", "--lr=2e-4"], "write `--set training.learning_rate=2e-4`"),
        (["train", "r.toml", "--epochs", "3"], "write `--set training.num_train_epochs=3`"),
        (["train", "r.toml", "--output-dir", "out"], "write `--set training.output_dir=out`"),
        (["train", "r.toml", "--output_dir", "out"], "write `--set training.output_dir=out`"),
        (["train", "r.toml", "--seed", "1"], "write `--set training.seed=1`"),
        (["train", "r.toml", "--load_in_4bit"], 'write `--set quantization.method="bnb-4bit"`'),
        (["train", "r.toml", "--lora-r"], "write `--set peft.lora_r=...`"),
        (["train", "--config", "r.toml"], "write the path of the recipe without an option"),
        (["train", "r.toml", "--resume_from_checkpoint", "x"], "write `--resume`"),
        (["train", "r.toml", "--num_processes", "2"], "did you mean `--num-processes`?"),
        (["train", "r.toml", "--nproc_per_node", "2"], "write `--num-processes` with their number"),
        (["plan", "r.toml", "--batch-size", "8"], "write `--set training.global_batch_size=8`"),
        (["infer", "run", "--max-new-tokens", "64"], "write `--set generation.max_new_tokens=64`"),
        (["infer", "run", "--temperature", "0.7"], "write `--set generation.temperature=0.7`"),
        (["infer", "run", "--prompt", "x"], "write `--input`"),
        (["merge", "run", "--output-dir", "x"], "write `--output`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_of_another_tool_leads_to_what_does_the_same(arguments, told):
    done = lorans(*arguments)
    option = next(argument for argument in arguments if argument.startswith("--")).partition("=")[0]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {option}: `lorans {arguments[0]}` has no such option ({told})\n"


def test_an_option_that_nobody_knows_is_a_usage_error():
    done = lorans("train", "r.toml", "--colour", "red")
    assert done.returncode == 2
    assert "No such option: --colour" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sft"], "use `lorans train`"),
        (["chat", "run"], "use `lorans infer`"),
        (["export"], "use `lorans merge`"),
        (["trian"], "did you mean `train`?"),
        (["my.toml", "--resume"], "did you mean `lorans train my.toml --resume`?"),
        (["wroker"], "`lorans --help` lists them"),
        (["jobs"], "`lorans --help` lists them"),
    ],
)
def test_a_wrong_command_leads_to_the_right_one_and_never_to_a_hidden_one(arguments, told):
    done = lorans(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: no command `{arguments[0]}` ({told})\n")


SHOWN = [entry for entry in COMMANDS if entry.group]


def test_help_lists_every_command_under_its_group_with_a_whole_sentence():
    text = lorans("--help").stdout
    places = [text.index(f"\n{group}:") for group in dict.fromkeys(entry.group for entry in SHOWN)]
    assert places == sorted(places)
    assert "..." not in text.partition("Start:")[2]
    assert "\x1b" not in text
    for entry in COMMANDS:
        assert bool(re.search(rf"^  {entry.name} ", text, re.MULTILINE)) == bool(entry.group)


@pytest.mark.parametrize("entry", SHOWN, ids=lambda entry: entry.name)
def test_the_help_of_a_command_has_two_examples_that_parse(entry):
    text = lorans(entry.name, "-h").stdout
    assert text == lorans(entry.name, "--help").stdout
    assert len(entry.examples) == 2
    for example in entry.examples:
        assert f"  {example}\n" in text
        assert f"lorans {entry.name}" in example
    sentences = re.findall(r"^  --?[a-z-]+.*", text, re.MULTILINE)
    assert sentences
    assert app.registered_commands
