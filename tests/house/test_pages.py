"""The pages for users: short, the same in both languages, with links, commands and keys that exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from lora_ns.cli.app import app
from lora_ns.cli.commands_page import page
from lora_ns.recipe.keys import UNIONS
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.objective_tables import kinds_of, top_level
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2]
ENGLISH, CHINESE = PROJECT / "README.md", PROJECT / "README.zh-CN.md"
DOCS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = [*sorted(PROJECT.glob("*.md")), *DOCS, PROJECT / "docs/llms.txt", PROJECT / "benchmarks/README.md"]
WORKS_ON = [ENGLISH, PROJECT / "SKILL.md", *(page for page in DOCS if page.name not in {"recipe.md", "methods.md"})]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", flags=re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def links(page: Path) -> list[str]:
    return [target for target in LINK.findall(prose(page)) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors of a page as GitHub makes them."""
    found: set[str] = set()
    for _, heading in HEADING.findall(prose(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def test_the_readme_is_short():
    assert len(ENGLISH.read_text("utf-8").splitlines()) < 150


def test_both_readmes_have_the_same_commands_headings_and_links():
    assert blocks(ENGLISH, "bash") == blocks(CHINESE, "bash")
    levels = [[len(marks) for marks, _ in HEADING.findall(prose(page))] for page in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    targets = [[target for target in links(page) if "README" not in target] for page in (ENGLISH, CHINESE)]
    assert targets[0] == targets[1]
    rows = [len(re.findall(r"^[|-] ?", prose(page), flags=re.MULTILINE)) for page in (ENGLISH, CHINESE)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_each_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_each_page_is_on_the_site_and_in_the_list_for_models():
    site = (PROJECT / "website/zensical.toml").read_text("utf-8")
    listed = (PROJECT / "docs/llms.txt").read_text("utf-8")
    assert [page.name for page in DOCS if f'"{page.name}"' not in site] == []
    assert [page.name for page in DOCS if f"({page.name})" not in listed] == []


COMMANDS = typer.main.get_command(app).commands


def lorans_lines(page: Path) -> list[list[str]]:
    """The arguments of each `lorans` command in the shell blocks of a page."""
    found = []
    for block in blocks(page, "bash", "console"):
        for line in re.sub(r"<<'(\w+)'.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).splitlines():
            for part in re.split(r"&&|\||;", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["lorans"]:
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("page", WORKS_ON, ids=lambda page: str(page.relative_to(PROJECT)))
def test_each_command_has_the_options_that_a_page_gives_it(page):
    unknown = []
    for name, *rest in lorans_lines(page):
        if name.startswith("-"):  # of lorans itself
            continue
        if name not in COMMANDS:
            unknown.append((name, ""))
            continue
        command = COMMANDS[name]
        if hasattr(command, "commands"):  # such as `lorans adapter check`
            command = command.commands[rest[0]]
        known = command.params
        options = {option for parameter in known for option in (*parameter.opts, *parameter.secondary_opts)}
        given = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in {*options, "--help"}]
        unknown += [(name, option) for option in given]
    assert unknown == []


def keys_of(table: str) -> set[str]:
    """The keys of a table, whichever task, method or strategy has them."""
    kinds = [*kinds_of(table), *UNIONS.get(table, {}).values()]
    info = Recipe.model_fields.get(table)
    if not kinds and info and isinstance(info.annotation, type) and issubclass(info.annotation, Table):
        kinds = [info.annotation]
    return {key for kind in kinds for key in kind.key_names()}


@pytest.mark.parametrize("page", WORKS_ON, ids=lambda page: str(page.relative_to(PROJECT)))
def test_each_key_that_a_page_sets_is_one_of_the_recipe(page):
    unknown = []
    for block in blocks(page, "toml"):
        for table, values in tomllib.loads(block).items():
            if table in {"task_name", "task_type"}:
                continue
            assert table in top_level(), table
            unknown += [f"{table}.{key}" for key in values if key not in keys_of(table)]
    assert unknown == []


@pytest.mark.parametrize("page", WORKS_ON, ids=lambda page: str(page.relative_to(PROJECT)))
def test_each_whole_recipe_on_a_page_loads(page, tmp_path):
    for block in blocks(page, "toml"):
        if "task_name" in block:
            path = tmp_path / "recipe.toml"
            path.write_text(block, encoding="utf-8")
            assert load_recipe(path).recipe.task_name


def test_the_command_reference_is_what_the_commands_say():
    written = (PROJECT / "docs/commands.md").read_text("utf-8")
    assert written == page(), "python -m lora_ns.cli.commands_page > docs/commands.md"
