"""Peak memory and time of the streaming merge of lorans, of copying the base, and of PEFT's merge in memory.

The base is a synthetic Llama in bfloat16 in eight shards, the adapter a LoRA of every linear layer. Each way runs in a
process of its own, alternately. Times are without imports; the files are in the page cache for all, and on the disk at
the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

SHARDS = 8
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
}


def write_base(folder: Path, size: float) -> None:
    """Write a Llama of so many GB with random weights, without ever having it in memory."""
    import torch
    import transformers

    from lora_ns.merging.shards import Entry, ShardWriter
    from lora_ns.model.files import ASSETS

    def skeleton(layers: int) -> tuple[transformers.PreTrainedModel, list[Entry]]:
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_hidden_layers=layers))
        entries = [Entry(name, "bfloat16", tuple(value.shape)) for name, value in model.state_dict().items()]
        return model.to(torch.bfloat16), entries

    fixed, one = (sum(entry.size for entry in skeleton(layers)[1]) for layers in (0, 1))
    model, entries = skeleton(max(1, round((size * 1e9 - fixed) / (one - fixed))))
    folder.mkdir()
    noise = torch.randn(1 << 22) * 0.02
    with ShardWriter(folder, entries, round(1.04 * sum(entry.size for entry in entries) / SHARDS)) as writer:
        for entry in entries:
            count = entry.size // entry.itemsize
            writer.write(entry.name, (noise[: min(noise.numel(), count - at)] for at in range(0, count, noise.numel())))
        writer.finish()
    model.config.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(ASSETS / "nano").save_pretrained(folder)


def write_adapter(base: Path, folder: Path) -> None:
    """Write a LoRA with random weights."""
    import peft
    import torch
    import transformers
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(base))
    config = peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    state = peft.get_peft_model_state_dict(adapted)
    adapted.peft_config["default"].save_pretrained(folder)
    values = {name: torch.randn(value.shape) * 0.01 for name, value in state.items()}
    save_file(values, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def store_quantised(base: Path, folder: Path) -> None:
    """Write the base as bitsandbytes stores it in nf4."""
    import torch
    import transformers

    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["lm_head"],
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, quantization_config=settings, device_map={"": "cpu"}
    )
    model.save_pretrained(folder, max_shard_size=round(1.04 * model.get_memory_footprint() / SHARDS))
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def stream(base: Path, adapter: Path, output: Path, quantised: str = "") -> float:
    """Merge as lorans does, over a base in bfloat16, one that was trained on in nf4, or one that is stored in nf4."""
    import transformers

    import lora_ns.services.merge  # noqa: F401 -- what the command imports
    from lora_ns.files.disk import sync
    from lora_ns.merging.stream import Merging
    from lora_ns.merging.stream import stream as merge
    from lora_ns.model.files import find_base
    from lora_ns.model.load import Loading
    from lora_ns.quantizers.bitsandbytes import Bnb4Bit

    import peft  # isort: skip

    del peft
    if quantised:
        import bitsandbytes

        del bitsandbytes
    transformers.LlamaForCausalLM  # noqa: B018 -- imports it
    began = time.perf_counter()
    place = base.with_name("stored") if quantised == "stored" else base
    found = find_base(str(place), "main", [], download=False)
    assert found is not None
    loading = Loading(task_type="CAUSAL_LM", dtype="bfloat16", device="cpu")
    if quantised:
        loading = replace(loading, dtype="float32", quantization=Bnb4Bit(method="bnb-4bit"))
    what = Merging(
        base=found,
        loading=loading,
        adapter=adapter,
        output=output,
        dtype="bfloat16",
        generation=transformers.GenerationConfig(),
        largest_shard=5 * 10**9,
    )
    output.mkdir()
    merge(what, transformers.AutoTokenizer.from_pretrained(base), "The quick brown fox jumps.", output)
    sync(output)
    return time.perf_counter() - began


def copy(base: Path, _: Path, output: Path) -> float:
    """Copy the files of the base."""
    from lora_ns.files.disk import sync

    began = time.perf_counter()
    shutil.copytree(base, output)
    sync(output)
    return time.perf_counter() - began


def whole(base: Path, adapter: Path, output: Path, dtype: str = "bfloat16") -> float:
    """Merge with `merge_and_unload` in a dtype, and round to that of the base."""
    import peft
    import torch
    import transformers

    from lora_ns.files.disk import sync

    transformers.LlamaForCausalLM  # noqa: B018 -- imports it
    began = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.to(torch.bfloat16).save_pretrained(output)
    sync(output)
    return time.perf_counter() - began


WAYS = {
    "copy": copy,
    "lorans": stream,
    "lorans, trained on nf4": functools.partial(stream, quantised="at once"),
    "lorans, stored in nf4": functools.partial(stream, quantised="stored"),
    "merge_and_unload": whole,
    "merge_and_unload in float32": functools.partial(whole, dtype="float32"),
}


def peak_memory() -> float:
    """Peak of the resident memory of this process in MB. `ru_maxrss` would start with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def measure(way: str, folder: Path) -> tuple[float, float]:
    """Seconds of a way, and its peak memory in MB, in a process of its own."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=2.0, help="size of the base in GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for about three times the size; default: a temporary one")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        seconds = WAYS[given.way](given.folder / "base", given.folder / "adapter", given.folder / "output")
        print(json.dumps([seconds, peak_memory()]))
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_base(folder / "base", given.size)
        write_adapter(folder / "base", folder / "adapter")
        store_quantised(folder / "base", folder / "stored")
        largest = max(file.stat().st_size for file in (folder / "base").glob("*.safetensors")) / 1e6
        shards = len(list((folder / "base").glob("*.safetensors")))
        print(f"{shards} shards, the largest {largest:,.0f} MB: at most {1.5 * largest + 300:,.0f} MB of memory")
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                found[way].append(measure(way, folder))
        copying = statistics.median(seconds for seconds, _ in found["copy"])
        print(f"{'way':<28} {'seconds':>8} {'of copying':>11} {'peak MB':>8}")
        for way, figures in found.items():
            seconds = statistics.median(seconds for seconds, _ in figures)
            peak = max(peak for _, peak in figures)
            print(f"{way:<28} {seconds:8.1f} {seconds / copying:10.1f}x {peak:8,.0f}")


if __name__ == "__main__":
    main()
