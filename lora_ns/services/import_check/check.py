"""Comparison of settings, learning rates and rows between an imported recipe and its source."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.data.columns import refuse_unused
from lora_ns.data.known_rows import known_facts
from lora_ns.data.prepare import OpenedRows, open_renderer
from lora_ns.data.rows import Row
from lora_ns.data.sources import read_sources
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.hub_cache import is_dataset_cached
from lora_ns.files.reading import exists
from lora_ns.importers.source import Source as Configuration
from lora_ns.machine import libraries
from lora_ns.machine.hardware import Machine
from lora_ns.machine.packages import can_train
from lora_ns.model.files import Base
from lora_ns.model.find import recipe_base_here
from lora_ns.model.tokenizer import base_tokenizer
from lora_ns.plan.room import room_for_rows
from lora_ns.plan.settle import settle_on_base
from lora_ns.plan.settled import Settled
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.services.import_ import Imported
from lora_ns.services.import_check.axolotl import AxolotlRows
from lora_ns.services.import_check.axolotl_numbers import WHY as AXOLOTL_WHY
from lora_ns.services.import_check.axolotl_numbers import axolotl_numbers
from lora_ns.services.import_check.llamafactory import LlamaFactoryRows
from lora_ns.services.import_check.llamafactory_numbers import WHY as LLAMAFACTORY_WHY
from lora_ns.services.import_check.llamafactory_numbers import llamafactory_numbers
from lora_ns.services.import_check.our_numbers import our_numbers
from lora_ns.services.import_check.rates import RateReport, compare_rates
from lora_ns.services.import_check.reader import ORDER, Numbers, RowReader, ToolReader, UnsupportedError
from lora_ns.services.import_check.rows import MISSHAPEN, Compared, RowComparer
from lora_ns.services.import_check.trl import TrlRows
from lora_ns.services.import_check.trl_numbers import WHY as TRL_WHY
from lora_ns.services.import_check.trl_numbers import trl_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READERS: Mapping[str, ToolReader] = {
    "axolotl": ToolReader(axolotl_numbers, AxolotlRows, AXOLOTL_WHY),
    "llamafactory": ToolReader(llamafactory_numbers, LlamaFactoryRows, LLAMAFACTORY_WHY),
    "trl": ToolReader(trl_numbers, TrlRows, TRL_WHY),
}
"""Readers, by the name of their tool."""


@dataclass(frozen=True)
class NumberPair:
    """A setting on both sides."""

    name: str
    theirs: Any
    ours: Any
    why: str = ""
    """Known reason for a difference, and its remedy; empty if there is none."""

    @property
    def is_equal(self) -> bool:
        """True if both values are equal, or both are unknown."""
        return _is_equal(self.theirs, self.ours)


@dataclass(frozen=True)
class ImportCheck:
    """Result of the comparison."""

    tool: str
    numbers: tuple[NumberPair, ...]
    rates: RateReport | str
    """Learning rates, or the reason why they were not compared."""
    rows: Compared | str
    """Rows, or the reason why they were not compared."""

    @property
    def is_different(self) -> bool:
        """True if something differs."""
        rates = isinstance(self.rates, RateReport) and not self.rates.is_equal
        rows = isinstance(self.rows, Compared) and bool(self.rows.different)
        return rates or rows or not all(pair.is_equal for pair in self.numbers)

    @property
    def is_proven(self) -> bool:
        """True if everything was compared and nothing differs."""
        return not self.is_different and isinstance(self.rates, RateReport) and isinstance(self.rows, Compared)


@dataclass(frozen=True)
class CheckOptions:
    """Options of `lorans import --check`."""

    gpus: int = 1
    rows: int = 50
    """Number of rows of each dataset to compare."""
    data: Path | None = None
    """File of rows that replaces the recipe's dataset."""
    base: str | None = None
    """Base model that replaces the recipe's, for its tokenizer."""
    recipe: Path | None = None
    """Recipe to check instead of the imported one."""


def check_import(imported: Imported, machine: Machine, options: CheckOptions) -> ImportCheck:
    """Compare the imported recipe, or `options.recipe`, with the source configuration.

    Raises:
        UsageError: if there is no recipe, the tool has no reader, or `--data` or `--recipe` is unusable.
    """
    tool, where = imported.translation.tool, str(imported.translation.source.path)
    if tool not in READERS:
        raise UsageError(Problem(where, f"`--check` does not support {tool}", "leave out `--check`"))
    if options.recipe is not None:
        loaded = load_recipe(options.recipe, _overrides(options))
    elif imported.text is not None:
        loaded = load_recipe(imported.output or Path("recipe.toml"), _overrides(options), text=imported.text)
    else:
        raise UsageError(Problem(where, "there is no recipe to check", "see the keys that were not carried over"))
    if options.data is not None:
        loaded = _with_rows(loaded, options.data)
    return compare(loaded, imported.translation.source, tool, machine, options)


def compare(
    loaded: LoadedRecipe, source: Configuration, tool: str, machine: Machine, options: CheckOptions
) -> ImportCheck:
    """Compare a recipe with a configuration of another tool. Raises `LoransError`."""
    reader = READERS[tool]
    base = recipe_base_here(loaded.recipe.model, loaded.folder)
    settled = settle_on_base(loaded, base.facts if base else None)
    total, kept = _counted(settled)
    is_installed = can_train()
    if is_installed:
        libraries.prepare(machine)  # a reader may ask PEFT for its defaults
    theirs = reader.numbers(source, options.gpus, total)
    ours = our_numbers(settled, base.facts if base else None, kept)
    if not is_installed:
        missing = "torch and transformers are not installed"
        return ImportCheck(tool, _pairs(reader, theirs, ours), missing, missing)
    return ImportCheck(
        tool,
        _pairs(reader, theirs, ours),
        compare_rates(theirs.rate, ours.rate),
        _rows(settled, base, source, tool, options),
    )


def _overrides(options: CheckOptions) -> list[str]:
    """Return the override that sets the base model to `--base`."""
    if options.base is None:
        return []
    folder = Path(options.base)
    return [f"model.name_or_path={_quoted(str(folder.absolute()) if exists(folder) else options.base)}"]


def _with_rows(loaded: LoadedRecipe, data: Path) -> LoadedRecipe:
    """Replace the dataset of a recipe by a file of rows. Raises `UsageError`."""
    table = loaded.recipe.dataset
    if table.sources:
        what = f"it replaces one file, but the recipe has {len(table.sources)} sources"
        raise UsageError(Problem("--data", what, "leave it out, and provide the files that the recipe names"))
    if not exists(data):
        raise UsageError(Problem("--data", f"no file `{data}`", "name an existing file of rows"))
    # An override of `dataset.path` would keep the keys that apply only to a dataset of the hub.
    of_hub = ("name", "subset", "revision", "train_split", "slice", "eval_split", "eval_path")
    changed = table.model_copy(update={**dict.fromkeys(of_hub), "path": str(data.absolute()), "streaming": False})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"dataset": changed}))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pairs(reader: ToolReader, theirs: Numbers, ours: Numbers) -> tuple[NumberPair, ...]:
    is_counted = theirs.rate.steps is not None and ours.rate.steps is not None
    known = [name for name in ORDER if name in theirs.values]
    shown = [name for name in known if not (name == "epochs" and is_counted)]  # steps determine them
    pairs = [NumberPair(name, theirs.values[name], ours.values[name]) for name in shown]
    return tuple(
        pair if pair.is_equal else replace(pair, why=reader.why.get(pair.name, "").format(theirs=pair.theirs))
        for pair in pairs
    )


def _is_equal(theirs: Any, ours: Any) -> bool:
    if theirs is None or ours is None:
        return theirs is ours
    numeric = isinstance(theirs, (int, float)) and isinstance(ours, (int, float))
    return math.isclose(theirs, ours, rel_tol=1e-9) if numeric else bool(theirs == ours)


def _counted(settled: Settled) -> tuple[int | None, int | None]:
    """Return the number of all rows and of training rows; None if unknown."""
    unpacked = settled.recipe.objective.model_copy(update={"packing": False})
    data = settled.recipe.dataset
    try:
        kept = known_facts(settled.recipe.model_copy(update={"objective": unpacked}), settled.folder).train_rows
        if not data.eval_fraction:
            return kept, kept
        whole = data.model_copy(update={"eval_fraction": None})
        plain = settled.recipe.model_copy(update={"objective": unpacked, "dataset": whole})
        return known_facts(plain, settled.folder).train_rows, kept
    except LoransError:
        return None, None  # `_rows` reports the reason


def _rows(
    settled: Settled, base: Base | None, source: Configuration, tool: str, options: CheckOptions
) -> Compared | str:
    """Compare the first rows of each dataset, or return the reason why this is not possible."""
    model = settled.recipe.model
    if base is None:
        return f"`{model.name_or_path}` is not on this machine (use `--base FOLDER` for another tokenizer)"
    try:
        chosen = _chosen(settled, options.rows)
        renderer = open_renderer(settled, base)
        comparer = RowComparer(
            tool,
            _reader(tool, source, base_tokenizer(base, model.trust_remote_code)),
            OpenedRows(chosen.sources, renderer, (), room_for_rows(settled.recipe, base.facts)),
            settled.recipe.objective,
        )
        pairs = [comparer.pair(number, dataset, row) for number, (dataset, row) in enumerate(chosen.rows, start=1)]
    except LoransError as error:
        return str(error.problems[0])
    except UnsupportedError as fault:
        return str(fault)
    return Compared(tool, tuple(pairs))


def _reader(tool: str, source: Configuration, tokenizer: PreTrainedTokenizerBase) -> RowReader:
    try:
        return READERS[tool].rows(source, tokenizer)
    except MISSHAPEN:
        raise UnsupportedError(f"{source.path} has a value of a type that {tool} does not accept") from None


@dataclass(frozen=True)
class _Chosen:
    sources: Any
    rows: tuple[tuple[int, Row], ...]
    """Rows, each with the index of its dataset."""


def _chosen(settled: Settled, count: int) -> _Chosen:
    """Read the first rows of each dataset. Raises `LoransError`."""
    data = settled.recipe.dataset
    for table in data.parts().values():
        if table.name and not table.path and not is_dataset_cached(table.name) and not exists(Path(table.name)):
            what = f"`{table.name}` is not on this machine"
            raise UsageError(Problem("", what, "use `--data ROWS` for the rows of a file"))
    whole = data.model_copy(update={"eval_fraction": None, "eval_path": None, "eval_split": None})
    sources = read_sources(settled.recipe.model_copy(update={"dataset": whole}), settled.folder)
    refuse_unused(sources)
    if not sources.parts:
        return _Chosen(sources, tuple((0, row) for row in sources.train.rows[:count]))
    rows = [(number, row) for number, part in enumerate(sources.parts) for row in part.source.rows[:count]]
    return _Chosen(sources, tuple(rows))
