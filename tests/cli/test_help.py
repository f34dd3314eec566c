"""Help in groups, and the way from a wrong option or command to the right one."""

import re

import pytest
import typer
from command_line import lorans
from terminals import command, on_a_terminal, plain

from lora_ns.cli.app import COMMANDS, app
from lora_ns.cli.commands import Family, Group


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


WRONG = [
    ("train r.toml --colour red", "--colour: `lorans train` has no such option"),
    ("train r.toml --nodes few", "--nodes: .* valid integer.*"),
    ("infer run --dtype int8", "--dtype: 'int8' is not one of 'float32', 'bfloat16', 'float16'"),
    ("train r.toml --set", "option '--set' requires an argument"),
    ("train", "missing argument '(?i:recipe)'"),
    ("plan r.toml more", r"got unexpected extra argument(\(s\))? \(more\)"),
    ("--colour train", "--colour: `lorans` has no such option"),
]
"""Command lines, and patterns of what is wrong with them: the words are the parser's, and depend on its version."""


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_a_wrong_command_line_is_a_usage_error(words, told):
    command_line = "lorans" if words.startswith("-") else f"lorans {words.split()[0]}"
    done = lorans(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {told} \(`{command_line} --help` lists the options\)\n", done.stderr)


@pytest.mark.parametrize("words", [words for words, _ in WRONG])
def test_a_terminal_gets_a_wrong_command_line_in_colour_and_no_escapes_in_words(words):
    got = on_a_terminal(command(*words.split()))
    assert "\x1b[31merror" in got
    assert "x1b" not in plain(got)
    assert " ".join(plain(got).split()).startswith("error: ")


FAMILIES = [entry for entry in COMMANDS if isinstance(entry, Family)]
SHOWN = [
    *(([entry.name], entry) for entry in COMMANDS if entry.group),
    *(([family.name, entry.name], entry) for family in FAMILIES for entry in family.commands),
]
"""The words of each command in the help, and the command."""


def help_on_a_terminal(columns, *words):
    """The lines of a help with panels, which an application has that starts on a terminal."""

    def write(_):
        fresh = typer.Typer(cls=Group, rich_markup_mode="rich")
        for entry in COMMANDS:
            entry.add_to(fresh)
        with pytest.raises(SystemExit):
            fresh(args=list(words), prog_name="lorans")

    return plain(on_a_terminal(write, COLUMNS=str(columns))).splitlines()


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("words", [["--help"], *([*words, "--help"] for words, _ in SHOWN)])
def test_help_fits_a_terminal_and_shows_no_type_beside_a_flag(words, columns):
    done = help_on_a_terminal(columns, *words)
    assert max(map(len, done)) <= columns
    assert not [line for line in done if "bool" in line or "…" in line]


def test_help_wraps_a_paragraph_at_the_width_of_the_terminal():
    lines = help_on_a_terminal(160, "train", "--help")
    assert any("The saved adapter is reloaded and checked against the trained model." in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sft"], "use `lorans train`"),
        (["chat", "run"], "use `lorans infer`"),
        (["merge-lora"], "use `lorans merge`"),
        (["trian"], "did you mean `train`?"),
        (["my.toml", "--resume"], "did you mean `lorans train my.toml --resume`?"),
        (["wroker"], "`lorans --help` lists them"),
        (["jobs"], "`lorans --help` lists them"),
    ],
)
def test_a_wrong_command_leads_to_the_right_one_and_never_to_a_hidden_one(arguments, told):
    done = lorans(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: no command `{arguments[0]}` ({told})\n")


def test_help_lists_every_command_under_its_group_with_a_whole_sentence():
    text = lorans("--help").stdout
    places = [text.index(f"\n{group}:") for group in dict.fromkeys(entry.group for entry in COMMANDS if entry.group)]
    assert places == sorted(places)
    assert "..." not in text.partition("Start:")[2]
    assert "\x1b" not in text
    for entry in COMMANDS:
        assert bool(re.search(rf"^  {entry.name} ", text, re.MULTILINE)) == bool(entry.group)


@pytest.mark.parametrize(("words", "entry"), SHOWN, ids=[" ".join(words) for words, _ in SHOWN])
def test_the_help_of_a_command_has_two_examples_that_parse(words, entry):
    text = lorans(*words, "-h").stdout
    assert text == lorans(*words, "--help").stdout
    assert len(entry.examples) == 2
    for example in entry.examples:
        assert f"  {example}\n" in text
        assert f"lorans {' '.join(words)}" in example
    sentences = re.findall(r"^  --?[a-z-]+.*", text, re.MULTILINE)
    assert sentences
    assert app.registered_commands
