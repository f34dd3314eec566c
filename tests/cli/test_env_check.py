"""`lorans env-check`: what it prints, what it exits with, and what a recipe makes it ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from terminals import command, on_a_terminal, plain
from typer.testing import CliRunner

from lora_ns.cli.env_check import env_check, needs_of
from lora_ns.errors import RecipeError
from lora_ns.machine import environment
from lora_ns.machine.environment import Check, Needs, Report
from lora_ns.recipe.load import load_recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command("env-check")(env_check)

OK = Check("python", "ok", "3.12.1 on Linux x86_64")
WARN = Check("datasets", "warn", "5.0.0 is older than the tested >=5.2,<5.3", "pip install 'datasets>=5.2,<5.3'")
FAIL = Check("trl", "fail", "is not installed", "pip install 'trl>=1.16,<1.17'")
RECIPE = """
task_name = "t"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
prompt_template = "{q}"
completion_template = "{a}"
[training]
output_dir = "out/t"
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Needs, float]]:
    """What the environment was asked; it answers with `asked.report`."""
    calls: list[tuple[Needs, float]] = []

    def check(needs: Needs, timeout_s: float) -> Report:
        calls.append((needs, timeout_s))
        return Report((OK, WARN))

    monkeypatch.setattr(environment, "check", check)
    return calls


def answer(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(environment, "check", lambda *_: Report(checks))


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_one_line_a_check_and_the_command_under_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, OK, WARN, FAIL)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 3
    assert result.stderr == ""
    assert result.stdout == (
        "ok    python    3.12.1 on Linux x86_64\n"
        "warn  datasets  5.0.0 is older than the tested >=5.2,<5.3\n"
        "                pip install 'datasets>=5.2,<5.3'\n"
        "fail  trl       is not installed\n"
        "                pip install 'trl>=1.16,<1.17'\n"
        "does not work: trl\n"
    )


def test_long_lines_and_brackets_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fact = "[red]" + "x" * 300
    answer(monkeypatch, Check("hub", "warn", fact, "pip install 'lora-ns[deepspeed]'"))
    assert CliRunner().invoke(app, []).stdout == (
        f"warn  hub  {fact}\n           pip install 'lora-ns[deepspeed]'\neverything necessary works, 1 warning\n"
    )


def drawn(**surroundings: Any) -> str:
    """What a terminal has once the spinner is gone."""
    return on_a_terminal(command("env-check"), **surroundings).rpartition("\x1b[2K")[2]


LONG = Check("hub", "warn", "huggingface.co is not reachable: " + "no route to the host, " * 3 + "after 7 s", "x" * 100)


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_terminal_gets_a_panel_that_fits_it_and_commands_that_are_whole(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    answer(monkeypatch, OK, LONG, FAIL)
    lines = plain(drawn(columns=columns)).splitlines()
    end = next(place for place, line in enumerate(lines) if line.startswith("╰"))
    assert lines[0].startswith("╭─ environment ─")
    assert max(map(len, lines[: end + 1])) <= columns
    assert len(lines[: end + 1]) == 5 if columns == 160 else len(lines[: end + 1]) > 5
    assert lines[end + 1 :] == [
        "to fix hub:",
        "  " + "x" * 100,
        "to fix trl:",
        f"  {FAIL.remedy}",
        "does not work: trl",
    ]


def test_a_remedy_of_several_checks_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, FAIL, Check("peft", "warn", "is old", FAIL.remedy))
    assert plain(drawn()).count(FAIL.remedy) == 1


@pytest.mark.parametrize(("checks", "colour"), [((OK,), "32"), ((OK, WARN), "33"), ((WARN, FAIL, OK), "31")])
def test_the_worst_check_colours_the_panel(
    monkeypatch: pytest.MonkeyPatch, checks: tuple[Check, ...], colour: str
) -> None:
    answer(monkeypatch, *checks)
    assert drawn().startswith(f"\x1b[{colour}m╭")
    assert "\x1b" not in drawn(NO_COLOR="1")


@pytest.mark.parametrize(("checks", "code"), [((OK,), 0), ((OK, WARN), 0), ((OK, WARN, FAIL), 3)])
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_only_a_failure_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, checks: tuple[Check, ...], code: int, arguments: list[str]
) -> None:
    answer(monkeypatch, *checks)
    assert CliRunner().invoke(app, arguments).exit_code == code


def test_json_is_one_object_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, OK, FAIL)
    result = CliRunner().invoke(app, ["--json"])
    assert result.stderr == ""
    assert json.loads(result.stdout) == {
        "ok": False,
        "checks": [
            {"name": "python", "status": "ok", "fact": OK.fact, "remedy": ""},
            {"name": "trl", "status": "fail", "fact": FAIL.fact, "remedy": FAIL.remedy},
        ],
    }


def test_without_a_recipe_nothing_but_the_core_is_needed(asked: list[tuple[Needs, float]]) -> None:
    assert CliRunner().invoke(app, ["--timeout", "7"]).exit_code == 0
    assert asked == [(Needs(), 7.0)]


def test_a_recipe_of_local_files_needs_its_folder_only(asked: list[tuple[Needs, float]], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--recipe", str(write(tmp_path))]).exit_code == 0
    assert asked == [(Needs(output_dir=Path("out/t")), 60.0)]


def test_a_recipe_that_cannot_be_read_asks_nothing(asked: list[tuple[Needs, float]], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--recipe", str(tmp_path / "absent.toml")])
    assert isinstance(result.exception, RecipeError)
    assert asked == []


@pytest.mark.parametrize(
    ("override", "needs"),
    [
        ("quantization.method='bnb-4bit'", {"quantization": True}),
        ("training.optim='paged_adamw_8bit'", {"quantization": True}),
        ("training.optim='lion_32bit'", {"quantization": True}),
        ("training.optim='adamw_torch_8bit'", {}),
        ("model.attn_implementation='flash_attention_2'", {"flash_attention": True, "cuda": True}),
        ("tracking.report_to=['wandb']", {"trackers": ("wandb",)}),
        ("model.name_or_path='org/model'", {"hub": True}),
    ],
)
def test_a_recipe_asks_for_what_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, needs: dict[str, object]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_recipe(write(tmp_path), [override])
    assert needs_of(loaded) == Needs(output_dir=Path("out/t"), **needs)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reward", "is_needed"), [("code", True), ("exact", False)])
def test_a_recipe_with_programs_asks_for_the_sandbox(tmp_path: Path, reward: str, is_needed: bool) -> None:
    text = RECIPE.replace('completion_template = "{a}"\n', "") + "[grpo]\nmax_completion_length = 8\n"
    text += ("allow_code = true\n" if is_needed else "") + f'[[grpo.rewards]]\nname = "{reward}"\n'
    assert needs_of(load_recipe(write(tmp_path, text))).sandbox == is_needed


def test_what_the_cache_holds_does_not_need_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub/models--org--model/snapshots").mkdir(parents=True)
    rows = RECIPE.replace('path = "rows.jsonl"', 'name = "org/rows"').replace("lorans:nano", "org/model")
    loaded = load_recipe(write(tmp_path, rows))
    assert needs_of(loaded).hub
    (tmp_path / "hub/datasets--org--rows/snapshots").mkdir(parents=True)
    assert not needs_of(loaded).hub
