"""The smallest valid recipe."""

import json

from lora_ns.objectives import OBJECTIVES

MINIMAL = """\
task_name = "task"
task_type = "CAUSAL_LM"

[model]
name_or_path = "lorans:nano"

[peft]
method = "lora"

[dataset]
path = "train.jsonl"

[training]
output_dir = "run"
"""

_NEEDED = {"trainable-tokens": ("peft.token_indices=[5, 6, 7]",)}


def needed(table: str) -> tuple[str, ...]:
    """The overrides for the keys of an objective's table that have no default."""
    found = next((kind.minimum for kind in OBJECTIVES.values() if kind.toml == table), {})
    return tuple(f"{table}.{key}=" + json.dumps(value).replace('": ', '" = ') for key, value in found.items())


def choosing(method: str) -> tuple[str, ...]:
    """The overrides that choose a PEFT method, with the keys that have no default."""
    return (f"peft.method={method}", *_NEEDED.get(method, ()))
