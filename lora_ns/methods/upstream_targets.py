"""The modules that PEFT adapts in a model family by default, read from its source so that nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

_PREFIX, _SUFFIX = "TRANSFORMERS_MODELS_TO_", "_MAPPING"


def default_targets(kind: str, family: str) -> tuple[str, ...] | None:
    """Return PEFT's default modules of a kind in a family; None if it has none, or PEFT is not installed.

    Args:
        kind: name of the mapping in PEFT, such as `IA3_TARGET_MODULES`.
        family: `model_type` of the base.
    """
    return _mappings().get(kind, {}).get(family)


@functools.cache
def _mappings() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return the mappings that `peft.utils.constants` writes out, by their names."""
    found = importlib.util.find_spec("peft")
    if found is None or found.origin is None:
        return {}
    file = Path(found.origin).parent / "utils/constants.py"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    return dict(_written_out(tree))


def _written_out(tree: ast.Module) -> list[tuple[str, Mapping[str, tuple[str, ...]]]]:
    mappings: list[tuple[str, Mapping[str, tuple[str, ...]]]] = []
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and isinstance(node.value, ast.Dict):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue  # computed from another mapping
            plain = {family: tuple(names) for family, names in value.items() if isinstance(names, list)}
            mappings.append((name.removeprefix(_PREFIX).removesuffix(_SUFFIX), plain))
    return mappings


def is_end(name: str, end: str) -> bool:
    """True if a module name ends with the given parts."""
    return name == end or name.endswith(f".{end}")
