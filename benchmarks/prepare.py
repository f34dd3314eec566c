"""Rows read, rendered and tokenised per second, compared with TRL's preparation and with the cache."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import transformers
import trl

from lora_ns.data.encoded import as_dataset
from lora_ns.data.prepare import open_renderer, prepare
from lora_ns.machine.hardware import detect
from lora_ns.model.files import find_base
from lora_ns.plan.settle import settle_on_base
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.validate import prepare_rows

RECIPE = """\
task_name = "prepare"
task_type = "CAUSAL_LM"
[model]
name_or_path = {model}
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
[sft]
max_seq_length = 4096
"""


def lorans(folder: Path) -> float:
    """Seconds from the file to the trainer's dataset."""
    begin = time.perf_counter()
    prepared = prepare_rows(load_recipe(folder / "recipe.toml"), detect(), SilentObserver())
    as_dataset(prepared.train.sequences)
    return time.perf_counter() - begin


def start(folder: Path) -> float:
    """Seconds to prepare the trainer's dataset through the cache, without loading the tokenizer."""
    loaded = load_recipe(folder / "recipe.toml")
    base = find_base(loaded.recipe.model.name_or_path, "main", [folder], download=False)
    assert base is not None
    settled = settle_on_base(loaded, base.facts)
    renderer = open_renderer(settled, base)
    begin = time.perf_counter()
    prepare(settled, renderer, base, SilentObserver(), use_cache=True)
    return time.perf_counter() - begin


def trl_alone(
    folder: Path, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> float:
    """Seconds that TRL takes to prepare the rows: construction of the trainer with all rows, minus that with one."""
    times = []
    for count in (None, 1):
        begin = time.perf_counter()
        rows = datasets.load_dataset(
            "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / f"cache{time.time()}")
        )
        rows = rows if count is None else rows.select(range(count))
        arguments = trl.SFTConfig(
            output_dir=str(folder / "trl"), use_cpu=True, bf16=False, report_to="none", max_length=4096
        )
        trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        times.append(time.perf_counter() - begin)
    return times[0] - times[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of an instruct model")
    parser.add_argument("--rows", required=True, type=Path, help="JSONL with `question` and `answer`")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder_of_model = str(Path(options.model).resolve())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of_model)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **sizes))
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    turns = [[("user", row["question"]), ("assistant", row["answer"])] for row in rows]
    chats = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    datasets.disable_caching()
    datasets.disable_progress_bars()
    ratios, starts = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        (folder / "recipe.toml").write_text(RECIPE.format(model=json.dumps(folder_of_model)), encoding="utf-8")
        for number in range(options.rounds + 1):
            os.environ["LORANS_CACHE"] = str(folder / f"lorans{number}")
            first, second = start(folder), start(folder)
            ours, theirs = lorans(folder), trl_alone(folder, model, tokenizer)
            if number:
                ratios.append(theirs / ours)
                starts.append(first / second)
                speeds = f"lorans {len(rows) / ours:7,.0f} rows/s   trl {len(rows) / theirs:7,.0f} rows/s"
                print(f"{speeds}   ratio {ratios[-1]:.2f}")
                print(f"first start {first:.2f} s   second start {second:.3f} s   ratio {starts[-1]:.1f}")
    print(f"median ratio {statistics.median(ratios):.2f}, target: at least 1")
    print(f"second start {statistics.median(starts):.0f} times faster, target: at least 20")


if __name__ == "__main__":
    main()
