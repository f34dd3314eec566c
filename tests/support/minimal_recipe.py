"""The smallest valid recipe."""

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


def choosing(method: str) -> tuple[str, ...]:
    """The overrides that choose a PEFT method, with the keys that have no default."""
    return (f"peft.method={method}", *_NEEDED.get(method, ()))
