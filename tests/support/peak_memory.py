"""Peak memory of work on a large synthetic model, in a process of its own: `python peak_memory.py WAY FOLDER`."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MERGING = Path(__file__).parents[2] / "benchmarks/merging.py"


def benchmark():
    """The benchmark of merging, which writes such models."""
    spec = importlib.util.spec_from_file_location("benchmark_of_merging", MERGING)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@dataclass(frozen=True)
class Peak:
    """What a way of working took beyond the libraries, and what it found."""

    bytes: int
    found: object


def measure(way: str, folder: Path) -> Peak:
    """Run a way in a process of its own."""
    done = subprocess.run([sys.executable, __file__, way, str(folder)], stdout=subprocess.PIPE, check=True, text=True)
    return Peak(*json.loads(done.stdout.splitlines()[-1]))


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def probe(folder: Path, by_layer: bool) -> list[float]:
    """The last logits of a base with an adapter."""
    import torch

    from lora_ns.answers.probes import ask_probes, probes_of
    from lora_ns.merging.by_layer import load_by_layer
    from lora_ns.model.files import find_base
    from lora_ns.model.load import Loading, load_base
    from lora_ns.model.saved_adapter import load_adapter
    from lora_ns.model.tokenizer import load_tokenizer

    base = find_base(str(folder / "base"), "main", [], download=False)
    loading = Loading(task_type="CAUSAL_LM", dtype="bfloat16", device="cpu")
    adapter = folder / "adapter"
    model = load_by_layer(base, loading, adapter) if by_layer else load_adapter(load_base(base, loading), adapter)
    probes = probes_of([], load_tokenizer(base.path))[:2]
    return [
        one for reply in ask_probes(model, probes, torch.device("cpu"), "bfloat16") for one in reply.logits.tolist()
    ]


def merge(folder: Path, quantised: str) -> None:
    """Merge module by module."""
    benchmark().stream(folder / "base", folder / "adapter", folder / f"merged {quantised}", quantised)


WAYS = {
    "merge": lambda folder: merge(folder, ""),
    "merge over nf4": lambda folder: merge(folder, "at once"),
    "merge over stored nf4": lambda folder: merge(folder, "stored"),
    "whole": lambda folder: probe(folder, by_layer=False),
    "by layer": lambda folder: probe(folder, by_layer=True),
}


def main() -> None:
    way, folder = WAYS[sys.argv[1]], Path(sys.argv[2])
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers

    transformers.LlamaForCausalLM  # noqa: B018 -- imports it
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    found = way(folder)
    sys.stdout.write(f"{json.dumps([status('VmHWM') - before, found])}\n")


if __name__ == "__main__":
    main()
