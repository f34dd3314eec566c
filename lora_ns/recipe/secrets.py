"""Search for secrets in a recipe and in the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem
from lora_ns.files.reading import split_lines
from lora_ns.recipe.accelerate_merge import Filled
from lora_ns.recipe.explain import Locate
from lora_ns.recipe.lines import comments
from lora_ns.safety.credentials import secret_in, secret_told_in, secrets_of


def find_secrets(table: dict[str, Any], path: Path, text: str, locate: Locate) -> Iterator[Problem]:
    """Find secrets in a recipe, which is copied into its run: by their keys or their form, in values and comments."""
    places = set()
    for key, kind, variable in secrets_of(table):
        places.add(locate(key))
        yield Problem(locate(key), f"{kind}, but a recipe is copied into its run", _instead(variable), key=key)
    yield from (problem for problem in _secrets_of_text(path, text) if problem.where not in places)


def secrets_of_file(filled: Filled) -> Iterator[Problem]:
    """Find secrets in an accelerate configuration file, which is copied into the jobs of a run."""
    if filled.file is not None:
        yield from secrets_of_named(filled.file.path, filled.file.text)


def secrets_of_named(path: Path, text: str, table: Any = None) -> Iterator[Problem]:
    """Find secrets in a named file that is copied into the run. `table` is its content, if it is JSON."""
    lines = split_lines(text)
    places = set()
    for key, kind, variable in secrets_of(table):
        name = f'"{key.rpartition(".")[2]}"'
        number = next((number for number, line in enumerate(lines, start=1) if name in line or secret_in(line)), None)
        places.add(where := f"{path}:{number}" if number else str(path))
        yield Problem(where, f"{key}: {kind}, but the file is copied into the run", _instead(variable))
    for number, line in enumerate(lines, start=1):
        if (found := secret_told_in(line)) and (where := f"{path}:{number}") not in places:
            yield Problem(where, f"{found[0]}, but the file is copied into the run", _instead(found[1]))


def _secrets_of_text(path: Path, text: str) -> Iterator[Problem]:
    """Find secrets by line: by their form anywhere, and by the names that comments give them."""
    comment_texts = dict(comments(text))
    for number, line in enumerate(split_lines(text), start=1):
        if found := secret_in(line) or secret_told_in(comment_texts.get(number, "")):
            yield Problem(f"{path}:{number}", f"{found[0]}, but a recipe is copied into its run", _instead(found[1]))


def _instead(variable: str) -> str:
    return f"remove it, and set {variable} instead"
