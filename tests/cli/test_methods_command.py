"""`lorans methods`."""

import json

import pytest
from terminals import command, on_a_terminal, plain, shown
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.methods import METHODS, REFUSED
from lora_ns.objectives import OBJECTIVES
from lora_ns.recipe.methods_page import QUESTIONS


def run(*arguments):
    return CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False).stdout


def test_the_table_fits_80_columns_and_wide_has_every_question():
    assert max(map(len, run().splitlines()[:-1])) <= 80
    assert run("--wide").splitlines()[0].split("  ")[0] == "method"
    assert all(column in run("--wide").splitlines()[0] for column in QUESTIONS.values())


@pytest.mark.parametrize("arguments", [(), ("--wide",)])
def test_every_method_has_a_row_that_says_what_its_class_says(arguments):
    rows = {line.split()[0]: line.split()[1:] for line in run(*arguments).splitlines()[1:-1]}
    assert list(rows) == list(METHODS)
    for name, row in rows.items():
        capabilities = METHODS[name].capabilities
        assert row[0] == ("yes" if capabilities.merge is True else "-")
        assert float(row[-1]) == capabilities.typical_learning_rate


@pytest.mark.parametrize(("columns", "is_wide"), [(80, False), (120, False), (160, True), (200, True)])
def test_a_terminal_gets_all_columns_if_they_fit(columns, is_wide):
    lines = shown("methods", columns=columns)
    assert max(map(len, lines)) <= columns
    assert all(column in lines[0] for column in QUESTIONS.values()) == is_wide
    assert ("--wide" in " ".join(lines)) != is_wide
    assert [line.split() for line in lines[: len(METHODS) + 1]] == [
        line.split() for line in run(*["--wide"] * is_wide).splitlines()[:-1]
    ]


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("name", ["lora", "cartridge"])
def test_a_terminal_gets_one_method_in_a_panel_and_its_keys_wrapped(name, columns):
    drawn = on_a_terminal(command("methods", name), columns=columns)
    lines = plain(drawn).splitlines()
    assert lines[0].startswith(f"╭─ {name} ─")
    assert max(map(len, lines)) <= columns
    keys = run(name).partition("\n\n")[2]
    assert " ".join(plain(drawn).partition("╯\n")[2].split()) == " ".join(keys.split())
    assert "\x1b[36m" in drawn
    assert "\x1b" not in on_a_terminal(command("methods", name), NO_COLOR="1")


@pytest.mark.parametrize("name", METHODS)
def test_one_method_is_told_with_its_keys_and_its_reasons(name):
    told = run(name)
    capabilities = METHODS[name].capabilities
    assert METHODS[name].advice in told
    for field in ("merge", "nf4", "int8", "torchao", "gptq", "packing", "gradient_checkpointing", "resume"):
        reason = getattr(capabilities, field)
        assert f"no: {reason}" in told or reason is True
    assert all(f"\n{key}: " in told for key in METHODS[name].model_fields if key not in {"method", "extra"})


def test_as_json_it_is_all_there():
    found = json.loads(run("--json"))
    assert [entry["method"] for entry in found["methods"]] == list(METHODS)
    assert found["refused"] == dict(REFUSED)
    assert json.loads(run("lora", "--json")) == found["methods"][0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lorra", "no method `lorra` (did you mean `lora`?)"),
        ("zzz", "no method `zzz` (`lorans methods` lists them)"),
        *((name, f"{name} cannot be trained: {reason}") for name, reason in REFUSED.items()),
    ],
)
def test_what_is_no_method_is_told(name, told):
    with pytest.raises(UsageError) as caught:
        run(name)
    assert str(caught.value) == told


def test_objectives_are_listed_with_their_table_rows_and_trainer():
    listed = json.loads(run("--objectives", "--json"))["objectives"]
    assert [entry["trainer"] for entry in listed] == [kind.upstream for kind in OBJECTIVES.values()]
    assert [entry["table"] for entry in listed if entry["experimental"]] == ["cpo", "orpo"]
    lines = run("--objectives").splitlines()
    assert max(map(len, lines[: len(listed) + 1])) <= 80
    for line, entry in zip(lines[1:], listed, strict=False):
        assert line.startswith(f"[{entry['table']}] ")
        assert ("experimental" in line) == entry["experimental"]
        assert line.endswith(entry["rows"])
    assert "Experimental upstream" in " ".join(lines)


@pytest.mark.parametrize("also", ["lora", "--wide"])
def test_objectives_and_methods_are_not_listed_together(also):
    with pytest.raises(UsageError, match=f"`{also}` is about methods"):
        run("--objectives", also)
