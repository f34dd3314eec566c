"""The tables of tested combinations: every variant of every method, task or objective, base and way to run.

`python matrix.py OUTCOMES PAGE` writes the page for the outcomes that `pytest -m matrix` wrote to a file.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from architectures import ALL, Architecture, write_architecture
from minimal_recipe import choosing
from services_recipes import CLASSES, class_rows
from trap_runs import RECIPE, chat, write_rows

from lora_ns.methods import METHODS
from lora_ns.objectives import OBJECTIVES, Objective
from lora_ns.objectives.rewarded import RewardedObjective

FORMS: dict[str, tuple[str, ...]] = {
    "rank-stabilised": ("peft.use_rslora=true",),
    "DoRA": ("peft.use_dora=true",),
    "LoRA+": ("peft.loraplus_lr_ratio=4",),
    "LoRA-FA": ("peft.use_lora_fa=true",),
    "KaSA": ("peft.use_kasa=true", "peft.lora_r=8"),
    **{
        f'"{start}"': (f"peft.init_lora_weights={start}",)
        for start in ("gaussian", "mica", "olora", "orthogonal", "pissa", "pissa_niter_16")
    },
    **{f'"{start}"': (f"peft.init_lora_weights={start}", "peft.lora_r=8") for start in ("corda", "eva", "lora_ga")},
}
"""Variants of LoRA, with the overrides that select them."""
SMALL: dict[str, tuple[str, ...]] = {
    "miss": ("peft.r=8",),
    "psoft": ("peft.r=8",),
    "shira": ("peft.r=4",),
    "fourierft": ("peft.n_frequency=64", "training.learning_rate=1e-3"),
    "waveft": ("peft.n_frequency=64",),
    "trainable-tokens": (f"peft.token_indices={list(range(3, 250))}",),
}
"""Overrides that make a method fit tiny layers and few rows."""
ROWS: dict[str, tuple[str, ...]] = {
    "lora": choosing("lora"),
    **{f"lora, {name}": keys for name, keys in FORMS.items()},
    **{method: (*choosing(method), *SMALL.get(method, ())) for method in METHODS if method != "lora"},
}
"""Rows of the table, with the overrides for each."""
BASES: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ('model.dtype="bfloat16"',),
    "nf4": ('quantization.method="bnb-4bit"',),
    "int8": ('quantization.method="bnb-8bit"',),
}
TASKS = {"CAUSAL_LM": "text", "SEQ_CLS": "classes", "TOKEN_CLS": "tags"}
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "packing": ("sft.packing=true",),
    "checkpointing": ("training.gradient_checkpointing=true",),
}
LETTERS = {"packing": "p", "checkpointing": "c"}
KINDS: dict[str, type[Objective]] = {
    kind.toml: kind for kind in OBJECTIVES.values() if kind.toml not in {"sft", "classification"}
}
"""Objectives of the second table, by the names of their tables; the tasks of the first one are the others."""
LETTERS_OF_BASES = {"fp32": "+", "bf16": "b", "nf4": "4", "int8": "8"}
"""Bases of the second table."""

_STEPS = "max_steps = 3\nsave_steps = 3\neval_steps = 3\nlogging_steps = 1\nwarmup_steps = 0\n"
_TEXT = (
    RECIPE.replace('path = "rows.jsonl"', 'path = "rows.jsonl"\neval_path = "rows.jsonl"')
    .replace("max_steps = 1\n", f"{_STEPS}learning_rate = 5e-3\n")
    .replace("lora_r = 8\n", "")
    .replace("global_batch_size = 4\nper_device_train_batch_size = 4", "global_batch_size = 8")
    .replace("max_seq_length = 256", "max_seq_length = 128")
)
_LABELS = (
    CLASSES.replace("lorans:nano", "base")
    .replace("classes.jsonl", "rows.jsonl")
    .replace("max_steps = 30\nsave_steps = 30\neval_steps = 30\n", _STEPS)
)
_REWARDED = (
    "num_generations = 4\npreflight_prompts = 0\n"
    '[[{0}.rewards]]\nname = "regex"\npattern = "[a-z]"\n'  # about half of the completions of a random model
)


def _of_objective(kind: type[Objective]) -> str:
    """A recipe of two steps with an objective."""
    keys = {"max_seq_length": "128"}
    if kind.generates:
        keys["max_completion_length"] = "8"
    if "teacher" in kind.minimum:
        keys["teacher"] = '"teacher"'
    table = "".join(f"{key} = {value}\n" for key, value in keys.items())
    if issubclass(kind, RewardedObjective):
        table += _REWARDED.format(kind.toml)
    head, _, _ = _TEXT.replace("CAUSAL_LM", kind.task_type).replace(" = 3\n", " = 2\n").partition("[sft]\n")
    return f"{head}[{kind.toml}]\n{table}[evaluation]\nbefore_training = false\n"


RECIPES = {
    "CAUSAL_LM": _TEXT,
    "SEQ_CLS": _LABELS,
    "TOKEN_CLS": _LABELS.replace("SEQ_CLS", "TOKEN_CLS"),
    **{name: _of_objective(kind) for name, kind in KINDS.items()},
}
_TAGGED = [
    {"tokens": words, "tags": ["B-X" if word.isupper() else "O" for word in words]}
    for words in (["plum"], ["PLUM", "falls"], ["a", "PLUM", "falls", "far"], ["STONE"]) * 2
]
DATA: dict[str, Sequence[dict[str, object]]] = {
    "CAUSAL_LM": [chat("plum " * number, "falls " * (4 - number % 4)) for number in range(1, 9)],
    "SEQ_CLS": class_rows(),
    "TOKEN_CLS": _TAGGED,
    **{name: [dict(row) for row in kind.starter_rows("prompt", "completion")] * 2 for name, kind in KINDS.items()},
}
_FAMILIES = {"SEQ_CLS": "bert", "TOKEN_CLS": "bert"}
"""Architectures of the bases other than Llama."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell."""

    row: str
    task: str
    """A task, or an objective."""
    base: str
    way: str
    refused: str = ""
    """The reason, if the combination is refused."""
    merged: str = ""
    """`yes`, or the reason for which it cannot be merged."""


def write_task(folder: Path, task: str) -> None:
    """Write a base and rows for a task or an objective, and another model as its teacher."""
    write_architecture(folder, _FAMILIES.get(task, "llama"))
    write_rows(folder, DATA[task])
    if task in KINDS and "teacher" in KINDS[task].minimum:
        (folder / "base").rename(folder / "teacher")
        write_architecture(folder, "llama", seed=8)


def architecture(task: str) -> Architecture:
    """The architecture of a task's base."""
    return ALL[_FAMILIES.get(task, "llama")]


def ways_of(task: str) -> list[str]:
    """The ways to run a task; packing is for text only, and objectives run plainly."""
    if task in KINDS:
        return ["plain"]
    return [way for way in WAYS if way != "packing" or task == "CAUSAL_LM"]


def groups() -> Iterator[tuple[str, str, str]]:
    """All combinations of row, task and base. The cells of a group differ only in the way to run, and are compared."""
    yield from ((row, task, base) for row in ROWS for task in TASKS for base in BASES)


def objective_groups() -> Iterator[tuple[str, str, str]]:
    """The same for objectives: LoRA over every base, all other rows over one in float32."""
    yield from ((row, name, base) for row in ROWS for name in KINDS for base in (BASES if row == "lora" else ["fp32"]))


def objective_sample() -> list[tuple[str, str, str]]:
    """Each objective with another row."""
    rows = list(ROWS)
    return [(rows[number * len(rows) // len(KINDS)], name, "fp32") for number, name in enumerate(KINDS)]


def sample() -> list[tuple[str, str, str]]:
    """One task of each row, on alternating bases, so that several rows cover each pair of task and base."""
    bases, tasks = list(BASES), list(TASKS)
    turns = ((row, number, number % len(tasks)) for number, row in enumerate(ROWS))
    return [(row, tasks[turn], bases[(number + turn) % len(bases)]) for row, number, turn in turns]


def read_outcomes(path: Path) -> dict[tuple[str, str, str], dict[str, Outcome]]:
    """Read outcomes, by group and way."""
    found: dict[tuple[str, str, str], dict[str, Outcome]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        outcome = Outcome(**json.loads(line))
        found.setdefault((outcome.row, outcome.task, outcome.base), {})[outcome.way] = outcome
    return found


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Append an outcome to a file that several processes write to."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def page(found: Mapping[tuple[str, str, str], Mapping[str, Outcome]]) -> str:
    """The outcomes as Markdown."""
    columns = [(task, base) for task in TASKS for base in BASES]
    heads = ["", *(f"{TASKS[task]} {base}" for task, base in columns)]
    lines = [
        "# Tested combinations",
        "",
        "Every variant of every method was trained for three steps on a tiny Llama (text) and a tiny BERT (classes,",
        "tags), over a base in float32, bfloat16, nf4 and int8, with packing and with gradient checkpointing. In",
        "every marked cell, training changed only the adapter, the saved adapter gave the same logits in another",
        "process, and all ways to run had the same first loss and gradient. `nox -s matrix` repeats these runs and",
        "writes this page.",
        "",
        "**+** trains and reloads; **p** also with packing; **c** also with gradient checkpointing; **m** merges;",
        "**-** is refused by `lorans validate`, for the reason below. The runs used a CPU; a reason that holds only",
        "there says so.",
        "",
        _line(heads),
        _line(["---"] * len(heads)),
        *(_line([row, *(marks(found[row, task, base]) for task, base in columns)]) for row in ROWS),
        "",
        "## Objectives",
        "",
        "The other objectives were trained for two steps each on a tiny Llama, with the same checks.",
        "",
        "**+** trains and reloads over a base in float32, **b** in bfloat16, **4** in nf4, **8** in int8; **-** is",
        "refused by `lorans validate`. LoRA was tried over all four, the other rows over float32 only; which methods",
        "train over quantised weights is in the table above.",
        "",
        _line(["", *KINDS]),
        _line(["---"] * (len(KINDS) + 1)),
        *(_line([row, *(objective_marks(row, name, found) for name in KINDS)]) for row in ROWS),
        "",
        "## Why not",
        "",
        *_reasons(outcome for group in found.values() for outcome in group.values()),
    ]
    return "\n".join(lines) + "\n"


def objective_marks(row: str, name: str, found: Mapping[tuple[str, str, str], Mapping[str, Outcome]]) -> str:
    """The bases over which an objective trains with a method, as letters."""
    tried = {letter: found.get((row, name, base)) for base, letter in LETTERS_OF_BASES.items()}
    return "".join(letter for letter, group in tried.items() if group and not group["plain"].refused) or "-"


def marks(group: Mapping[str, Outcome]) -> str:
    """The working cells of a group, as letters."""
    if group["plain"].refused:
        return "-"
    works = [LETTERS[way] for way in group if way != "plain" and not group[way].refused]
    return "".join(["+", *works, "m" if group["plain"].merged == "yes" else ""])


def read_page(text: str) -> dict[tuple[str, str, str], str]:
    """The marks of each group on the page; those of an objective over a base are its letter or `-`."""
    columns = [(task, base) for task in TASKS for base in BASES]
    of_tasks, of_objectives = (_cells(part) for part in text.split("## Objectives"))
    found = {(row, *column): cell for row, *cells in of_tasks for column, cell in zip(columns, cells, strict=True)}
    cells = {(row, name): cell for row, *line in of_objectives for name, cell in zip(KINDS, line, strict=True)}
    for row, name, base in objective_groups():
        letter = LETTERS_OF_BASES[base]
        found[row, name, base] = letter if letter in cells[row, name] else "-"
    return found


def _cells(text: str) -> list[list[str]]:
    """The rows of a table, without its head."""
    lines = [line for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _reasons(outcomes: Iterable[Outcome]) -> list[str]:
    """Each reason with its rows."""
    rows: dict[str, set[str]] = {}
    for outcome in outcomes:
        if reason := outcome.refused or outcome.merged.removeprefix("yes"):
            rows.setdefault(reason, set()).add(outcome.row)
    return [f"- {', '.join(row for row in ROWS if row in rows[reason])}: {reason}" for reason in sorted(rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(read_outcomes(Path(sys.argv[1]))), encoding="utf-8")
