"""Fill `[peft]` from the run whose adapter a recipe trains further. Keys that both give must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError, Problem
from lora_ns.files.reading import is_file, is_folder, read_json
from lora_ns.methods import METHODS
from lora_ns.methods.lora import MOVE_BASE
from lora_ns.recipe.keys import as_toml
from lora_ns.table import control_in

KEY = "model.init_adapter"

OF_A_NEW_ADAPTER = ("init_lora_weights", "init_samples", "eva_rho", "corda_method")
"""Keys of `[peft]` that only a new adapter uses."""

_OF_TRAINING = ("loraplus_lr_ratio", "use_lora_fa", "kasa_beta", "kasa_gamma")
"""Keys of `[peft]` that change how an adapter is trained and not what it is, like those that end with `dropout`."""

_MOVES_RANKS = MOVE_BASE | {"eva"}
"""Initialisations after which the saved adapter has other ranks than the recipe of its run."""

_SAVED_AS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}


@dataclass(frozen=True)
class Continued:
    """Keys of `[peft]` that describe the adapter of an earlier run; empty if the recipe starts a new adapter."""

    keys: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def continue_run(table: dict[str, Any], path: Path, where: Callable[[str], str]) -> Continued:
    """Fill `[peft]` from the run that `model.init_adapter` names, if it names one.

    If that run is not here, a run in the recipe's own directory that started from it is read instead, so that it can be
    resumed.

    Args:
        table: the recipe's tables with the overrides in them; changed.
        path: the recipe.
        where: returns the place of a dotted key.
    """
    model, peft = table.get("model"), table.get("peft", {})
    name = model.get("init_adapter") if isinstance(model, dict) else None
    if not isinstance(name, str) or not name or control_in(name) or not isinstance(peft, dict):
        return Continued()  # reported with the other keys
    adapter = _adapter_of(folder_of(name, path.parent)) or _adapter_of_own(table, name)
    if adapter is None:
        if "method" in peft:
            return Continued()  # the run is looked for again, together with the other files that the recipe names
        table["peft"] = {**peft, "method": "lora"}  # so that the rest can be checked
        problem = missing_run(folder_of(name, path.parent), KEY) or Problem("", "has no readable manifest", key=KEY)
        return Continued(frozenset(), (problem.located(where),))
    problems = []
    for key, written in peft.items():
        if key in adapter and not _is_same(written, adapter[key]):
            what = f"the adapter of {name} has {as_toml(adapter[key])}, and the recipe says {as_toml(written)}"
            problems.append(Problem(where(f"peft.{key}"), what, "remove it: the adapter decides", key=f"peft.{key}"))
    taken = _decided(adapter)
    table["peft"] = {**peft, **taken}
    return Continued(frozenset(f"peft.{key}" for key in taken if key not in peft), tuple(problems))


def folder_of(name: str, folder: Path) -> Path:
    """Return the directory of a run that a recipe names, looked for beside the recipe and in the current folder."""
    given = Path(name).expanduser()
    places = (folder / given, Path.cwd() / given)
    return next((place for place in places if is_folder(place)), places[-1])


def missing_run(folder: Path, key: str) -> Problem | None:
    """Return the problem of a folder that is not a run; None for a run, finished or not."""
    if not is_folder(folder):
        return Problem("", f"no such run directory: {folder}", "name the `output_dir` of a finished run", key=key)
    if not is_file(folder / "manifest.json"):
        remedy = "name the `output_dir` of a finished run"
        return Problem("", f"{folder} is not a run directory: it has no manifest.json", remedy, key=key)
    return None


def _adapter_of(folder: Path) -> dict[str, Any] | None:
    """Return the keys of `[peft]` that describe the adapter of a run; None if its manifest cannot be read."""
    recorded = _recipe_of(folder)
    if recorded is None:
        return None
    peft = recorded["peft"]
    if peft.get("init_lora_weights") in _MOVES_RANKS and is_file(config := folder / "adapter" / "adapter_config.json"):
        try:
            saved = read_json(config)
            peft = {**peft, **{key: saved[name] for key, name in _SAVED_AS.items() if saved.get(name)}}
        except (LoransError, KeyError, TypeError, AttributeError):
            return None
    return _describing(peft)


def _adapter_of_own(table: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the same of the run in the recipe's own directory, if it started from the run of this name."""
    training = table.get("training")
    own = training.get("output_dir") if isinstance(training, Mapping) else None
    recorded = _recipe_of(Path(own).expanduser()) if isinstance(own, str) and not control_in(own) else None
    if recorded is None or recorded.get("model", {}).get("init_adapter") != name:
        return None
    return _describing(recorded["peft"])


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    if not is_file(folder / "manifest.json"):
        return None
    try:
        recipe = read_json(folder / "manifest.json")["recipe"]
        return recipe if recipe["peft"]["method"] in METHODS else None
    except (LoransError, KeyError, TypeError, AttributeError):
        return None


def _describing(peft: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method and those of its keys that describe an adapter, however it is trained."""
    others = (*OF_A_NEW_ADAPTER, *_OF_TRAINING)
    return {key: value for key, value in peft.items() if key not in others and not key.endswith("dropout")}


def _decided(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys to fill: those that differ from their defaults, and rank and scale, whose defaults vary."""
    fields = METHODS[adapter["method"]].model_fields
    return {
        key: value
        for key, value in adapter.items()
        if key in ("method", "lora_r", "lora_alpha")
        or key not in fields
        or not _is_same(value, fields[key].get_default(call_default_factory=True))
    }


def _is_same(one: Any, other: Any) -> bool:
    """True if two values have the same effect: the order of names has none."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(str, one)) == sorted(map(str, other))
    return bool(one == other)
