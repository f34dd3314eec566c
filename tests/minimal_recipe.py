"""The least that a recipe needs."""

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
