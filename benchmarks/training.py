"""Training time of lorans and of other programs on the same model and rows, in turns within one run.

python benchmarks/training.py --model SmolLM2-135M-Instruct/ --rows gsm8k/train.jsonl
python benchmarks/training.py --kind pairs --model all-MiniLM-L6-v2/ --rows mrpc/msr_paraphrase_train.txt --batch 32

Every program trains a LoRA of rank 16 on all linear layers for the same epochs, with the batch size given here and its
own defaults for the rest. Tokens are those of the rows, without padding, so that a program that computes padding
gains nothing from it. The table also has the share of the matrix rate of this machine that each reaches: the product
of tokens per second and the operations of a token, divided by the rate of matrix products of this model's shapes,
measured before each round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, ROOT, Contender, Lorans, Work

RATE = """
import json, sys, time, torch
shapes, positions, dtype = json.loads(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
layers = [(torch.randn(positions, i).to(dtype), torch.randn(o, i).to(dtype)) for o, i in shapes]
def once():
    for rows, weight in layers:
        torch.nn.functional.linear(rows, weight)
with torch.no_grad():
    once()
    best = 1e9
    for _ in range(5):
        begin = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - begin)
print(2 * positions * sum(o * i for o, i in shapes) / best / 1e9)
"""
"""Prints the rate of matrix products of these shapes, in GFLOP/s, in a process that does nothing else."""


def matrix_rate(shapes: Sequence[Sequence[int]], positions: int, dtype: str) -> float:
    """Return GFLOP/s of the forward products of a model's distinct shapes, the best of five."""
    distinct = [list(shape) for shape in sorted({tuple(shape) for shape in shapes})]
    command = [sys.executable, "-c", RATE, json.dumps(distinct), str(positions), dtype]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def layer_shapes(model: str) -> list[list[int]]:
    """Return the shapes of the weights of a model's layers, once for each layer."""
    from lora_ns.model.files import find_base

    found = find_base(model, "main", [], download=False)
    assert found.facts is not None
    outer = ("embed", "lm_head", "pooler", "classifier")
    return [list(shape) for name, shape in found.facts.matrices.items() if not any(part in name for part in outer)]


RANK = 16
"""Rank of every adapter."""


def operations(shapes: Sequence[Sequence[int]], head: int, tokens: int, scored: int, squares: int, width: int) -> float:
    """Return the operations of an epoch that no program can leave out.

    These are the forward pass and the gradient of its inputs, and the gradient of the adapter's weights, not of the
    frozen ones.

    Args:
        shapes: those of the layers' weights.
        head: parameters of the vocabulary projection.
        tokens: tokens of all rows.
        scored: those in the loss.
        squares: sum of the squares of the rows' lengths, for attention.
        width: hidden size times number of layers.
    """
    weights = sum(rows * columns for rows, columns in shapes)
    adapter = sum(RANK * (rows + columns) for rows, columns in shapes)
    return 4.0 * (weights * tokens + head * scored) + 6.0 * adapter * tokens + 3 * 4.0 * squares * width / 2


def chats(file: Path, count: int) -> list[dict[str, Any]]:
    """Return rows of questions and answers as conversations."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:count]]
    turns = [(("user", row["question"]), ("assistant", row["answer"])) for row in rows]
    return [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]


def sentence_pairs(file: Path, count: int) -> list[dict[str, Any]]:
    """Return the rows of MRPC's own file."""
    lines = file.read_text(encoding="utf-8-sig").splitlines()[1 : count + 1]
    cells = [line.split("\t") for line in lines]
    return [{"sentence1": cell[3], "sentence2": cell[4], "label": int(cell[0])} for cell in cells]


READERS: dict[str, Callable[[Path, int], list[dict[str, Any]]]] = {"chat": chats, "pairs": sentence_pairs}


def faster_dtype(shapes: Sequence[Sequence[int]], positions: int) -> str:
    """Return bfloat16, unless this machine multiplies faster in float32."""
    rates = {dtype: matrix_rate(shapes, positions, dtype) for dtype in ("bfloat16", "float32")}
    return max(rates, key=lambda dtype: rates[dtype])


def main() -> None:
    """Run the contenders in turns, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--kind", choices=[*READERS], default="chat")
    parser.add_argument("--count", type=int, default=128, help="rows to train on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of contenders, beside lorans")
    parser.add_argument("--environments", type=Path, default=Path("benchmark-environments"))
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    model = str(Path(given.model).resolve())
    rows = READERS[given.kind](given.rows, given.count)
    shapes = layer_shapes(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows").mkdir()
        for file in (folder / "rows.jsonl", folder / "rows/train.jsonl"):
            file.write_text(text, encoding="utf-8")
        dtype = faster_dtype(shapes, 1024)
        work = Work(folder, model, given.kind, given.batch, given.epochs, dtype, given.environments.resolve())
        wanted = [
            kind for kind in CONTENDERS[given.kind] if kind is Lorans or not given.only or kind.name in given.only
        ]
        contenders = [kind(work) for kind in wanted]
        figures = measured(contenders, given.rounds, shapes, work)
    show(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measured(contenders: Sequence[Contender], rounds: int, shapes: list[list[int]], work: Work) -> dict[str, Any]:
    """Train with each contender in turn, `rounds` times."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    rates = []
    for number in range(rounds):
        rates.append(matrix_rate(shapes, 1024, work.dtype))
        for contender in contenders:
            seconds[contender.name].append(contender.train())
            print(f"round {number + 1}: {contender.name} {seconds[contender.name][-1]:.1f} s", flush=True)
    from lora_ns.machine.hardware import cpu_name

    ours = next(contender for contender in contenders if isinstance(contender, Lorans))
    manifest = ours.manifest()
    tokens = manifest["data"]["train"]["tokens"] * work.epochs
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cpu_name()}",
        "date": datetime.date.today().isoformat(),
        "model": Path(work.model).name,
        "dtype": work.dtype,
        "rows": manifest["data"]["train"]["rows"],
        "batch": work.batch,
        "tokens": tokens,
        "operations": epoch_operations(shapes, manifest, work),
        "padding": manifest["metrics"].get("padding", 0.0),
        "matrix_rates": rates,
        "seconds": seconds,
        "versions": {contender.name: contender.versions() for contender in contenders},
    }


def epoch_operations(shapes: list[list[int]], manifest: dict[str, Any], work: Work) -> float:
    """Return the operations of the rows of a run; see `operations`."""
    import datasets

    config = json.loads((Path(work.model) / "config.json").read_text(encoding="utf-8"))
    data = manifest["data"]["train"]
    width = config["hidden_size"] * config["num_hidden_layers"]
    head = config["hidden_size"] * config["vocab_size"] if work.kind == "chat" else 0
    rows = datasets.load_from_disk(str(work.folder / "lorans/data/train"))
    squares = sum(len(ids) ** 2 for ids in rows["input_ids"])
    return work.epochs * operations(shapes, head, data["tokens"], data["trained_tokens"] or 0, squares, width)


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{figures['model']}, {figures['rows']} rows, batch {figures['batch']}, {figures['dtype']}; ", end="")
    print(f"{figures['machine']}, {figures['date']}; padding of lorans {figures['padding']:.1%}")
    rate = statistics.median(figures["matrix_rates"])
    print(f"matrix products: {rate:.0f} GFLOP/s\n")
    print("| program | s (median) | tokens/s | lorans is faster by | of the matrix rate | versions |")
    print("|---|---|---|---|---|---|")
    ours = figures["seconds"]["lorans"]
    for name, seconds in figures["seconds"].items():
        middle = statistics.median(seconds)
        factors = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
        share = figures["operations"] / middle / rate / 1e9
        speed = figures["tokens"] / middle
        versions = ", ".join(f"{package} {version}" for package, version in figures["versions"][name].items())
        low, high = min(factors), max(factors)
        print(
            f"| {name} | {middle:.1f} | {speed:,.0f} | {statistics.median(factors):.2f} ({low:.2f} to {high:.2f}) "
            f"| {share:.0%} | {versions} |"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
