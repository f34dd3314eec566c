"""Search for the data files that a recipe names."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path, PurePath

from lora_ns.data.files.kinds import KNOWN
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.read import is_known
from lora_ns.errors import DataError, ModelError, Problem
from lora_ns.files.reading import exists, is_file, is_folder, read_json
from lora_ns.model.files import PACKAGED, packaged
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe


def find_files(folder: Path, names: str | Sequence[str], key: str) -> list[Path]:
    """Find the data files of one or several names in order, relative to the recipe or to the current folder.

    A name is a file, a folder (all data files in it, but not in its subfolders) or a pattern such as `data/*.jsonl`.

    Raises:
        DataError: with every name without a file.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    for name in [names] if isinstance(names, str) else names:
        files = _find(folder, name, key)
        if isinstance(files, Problem):
            problems.append(files)
        else:
            found += files
    if problems:
        raise DataError(problems)
    return found


def missing_files(recipe: Recipe, folder: Path) -> list[Problem]:
    """List problems of data file names: nothing found, or a pipe or a device. No file is read."""
    data = recipe.dataset
    named = [(f"{key}.path", part.path) for key, part in data.parts().items()]
    problems: list[Problem] = []
    suites = [(f"evaluation.suites.{number}.path", suite.path) for number, suite in enumerate(recipe.evaluation.suites)]
    for key, names in (*named, ("dataset.eval_path", data.eval_path), *suites):
        try:
            others = [file for file in find_files(folder, names or (), key) if not is_file(file)]
            problems += [Problem("", f"{file} is no file", "name a file", key=key) for file in others]
        except DataError as error:
            problems += error.problems
    return problems


def layout_of(table: Dataset) -> Layout:
    """Return the options for reading the files of a source."""
    return Layout(table.column_names, table.delimiter, table.sample_by)


def shown(names: str | Sequence[str], files: Sequence[Path]) -> str:
    """Return the displayed name of data files: the only file, or the names in the recipe with the number of files."""
    written = [names] if isinstance(names, str) else names
    if len(files) > 1:
        return f"{', '.join(written)} ({len(files):,} files)"
    return written[0] if written[0].startswith(PACKAGED) else str(files[0])


def places(folder: Path, name: str) -> list[Path]:
    """List the paths to try for a file name: beside the recipe, then in the current folder."""
    path = Path(name).expanduser()
    return list(dict.fromkeys(place / path for place in _folders(folder, name)))


def _folders(folder: Path, name: str) -> list[Path]:
    return [Path()] if Path(name).expanduser().is_absolute() else [folder, Path.cwd()]


def _find(folder: Path, name: str, key: str) -> list[Path] | Problem:
    if name.startswith(PACKAGED):
        try:
            return _in_folder(packaged(name), name, key)
        except ModelError as error:
            (problem,) = error.problems
            return Problem("", problem.what, problem.remedy, key=key)
    path, folders = Path(name).expanduser(), _folders(folder, name)
    candidates = places(folder, name)
    for candidate in candidates:
        if exists(candidate):
            return _in_folder(candidate, name, key)
    is_pattern = glob.has_magic(name)
    if is_pattern:
        for place in folders:
            if files := _matching(path, place):
                return files
    what = f"no file matches `{name}`" if is_pattern else f"no file `{name}`"
    looked = " and ".join(str(candidate) for candidate in candidates)
    return Problem("", what, f"looked at {looked}", key=key)


def _in_folder(path: Path, name: str, key: str) -> list[Path] | Problem:
    """Return the data files of a folder, or the file itself."""
    if not is_folder(path):
        return [path]
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        return Problem("", f"folder `{name}` cannot be read: {error.strerror}", "check its permissions", key=key)
    saved = _saved(path, name)
    if isinstance(saved, tuple):
        return Problem("", *saved, key=key)
    if saved is not None:
        return saved
    if files := [file for file in entries if not file.name.startswith(".") and is_known(file) and file.is_file()]:
        return files
    remedy = f"known: {KNOWN}; `{name.rstrip('/')}/**/*.jsonl` also looks below it"
    return Problem("", f"folder `{name}` has no data file", remedy, key=key)


_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""Files that `save_to_disk` of a `Dataset` and of a `DatasetDict` writes beside the rows."""


def _saved(path: Path, name: str) -> list[Path] | tuple[str, str] | None:
    """Return the files of a dataset from `save_to_disk` in its order, or an error message with its remedy.

    Returns None for any other folder.
    """
    place = name.rstrip("/")
    splits = _named_in(path / _SPLITS, "splits")
    if splits:
        named = " or ".join(f'`path = "{place}/{split}"`' for split in splits)
        return f"folder `{name}` holds the splits {', '.join(splits)}", f"name one of them: {named}"
    if not (path / _STATE).is_file():
        return None
    names = [file for file in _named_in(path / _STATE, "_data_files") if file == PurePath(file).name]
    if not names:
        return f"`{place}/{_STATE}` names no data file", f'save the data set again, or write `path = "{place}/*.arrow"`'
    missing = next((file for file in names if not (path / file).is_file()), None)
    if missing:
        return f"`{place}/{missing}` is not there, and `{_STATE}` names it", "save the data set again"
    return [path / file for file in names]


def _named_in(file: Path, key: str) -> list[str]:
    """Return the names in a list of a JSON file; empty if the file is missing or malformed."""
    try:
        content = read_json(file, DataError)
    except DataError:
        return []
    found = content.get(key) if isinstance(content, dict) else None
    listed = [
        part.get("filename") if isinstance(part, dict) else part for part in (found if isinstance(found, list) else ())
    ]
    return [part for part in listed if isinstance(part, str)]


def _matching(pattern: Path, folder: Path) -> list[Path]:
    """Return the files that match a pattern; hidden files only match if the pattern has the dot."""
    names = glob.glob(str(pattern), root_dir=folder, recursive=True)  # noqa: PTH207 -- Path.glob takes hidden files, too
    return sorted(path for name in names if (path := folder / name).is_file())
