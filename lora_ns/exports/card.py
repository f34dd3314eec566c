"""The model card of an artefact: what it is, what it was trained on, what was measured, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import UsageError
from lora_ns.files.reading import is_file, read_json
from lora_ns.run.at_step import RunAtStep
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest, SourceRecord
from lora_ns.safety.credentials import scrubbed

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"

_TASKS = {"CAUSAL_LM": "text-generation", "SEQ_CLS": "text-classification", "TOKEN_CLS": "token-classification"}
"""Names of the tasks on the hub."""

_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}

_MADE = {
    "plain": "A LoRA adapter of {}",
    "quantized": "{} with its adapter merged into the weights, which are quantised",
    "ollama": "{} with its adapter merged into the weights, as a GGUF file with a Modelfile for Ollama",
}

_LIBRARIES = {"plain": "peft", "ollama": "gguf"}
"""The library of an artefact, by the hub's names; `transformers` for others."""

_RELATIONS = {"plain": "adapter", "quantized": "quantized"}
"""The relation of an artefact to its base, by the hub's names; `finetune` for others."""

_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes", "deepspeed")


@dataclass(frozen=True)
class Figure:
    """A measured figure."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    before: float | None = None
    """The figure before training, or of the constant answer."""

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{interval}"


def card(run: RunDir, kind: str, proof: str, lineage: str = "") -> str:
    """Return the card of an artefact as Markdown, with the metadata of the Hugging Face hub.

    Args:
        run: the run.
        kind: the kind of artefact.
        proof: one line about its comparison with the trained model.
        lineage: the tip of its lineage, which `lorans verify` computes again.
    """
    from huggingface_hub import ModelCard

    manifest = run.read()
    figures = _figures(run, manifest)
    text = "\n".join(_text(run, manifest, kind, proof, lineage, figures))
    return str(ModelCard(f"---\n{_metadata(manifest, kind, figures).to_yaml()}\n---\n\n{scrubbed(text)}\n"))


def base_name(manifest: Manifest) -> str:
    """The name of the base on the hub, or that of its folder: a path of one machine is of no use on another."""
    return manifest.base.name if manifest.base.commit else Path(manifest.base.path).name


def _metadata(manifest: Manifest, kind: str, figures: Sequence[Figure]) -> ModelCardData:
    """The fields that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe = manifest.recipe
    names = [part.name for part in recipe.dataset.parts().values() if part.name and not Path(part.name).exists()]
    task = _TASKS[recipe.task_type]
    return ModelCardData(
        model_name=recipe.task_name,
        base_model=base_name(manifest),
        base_model_relation=_RELATIONS.get(kind, "finetune"),
        library_name=_LIBRARIES.get(kind, "transformers"),
        pipeline_tag=task,
        license=_license(manifest),
        datasets=names or None,
        tags=["lorans", recipe.objective.toml, *(["lora"] if kind == "plain" else [])],
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type="evaluation",
                dataset_name="the run's evaluation rows",
                metric_type=one.name,
                metric_name=one.name,
                metric_value=one.value,
            )
            for one in figures
        ]
        or None,
    )


def _license(manifest: Manifest) -> str | None:
    """The licence that the card of the base states, if it has one."""
    from huggingface_hub import ModelCard

    file = Path(manifest.base.moved_to or manifest.base.path) / CARD
    if not is_file(file):
        return None
    try:
        found = ModelCard.load(file).data.license
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _figures(run: RunDir, manifest: Manifest) -> list[Figure]:
    """The figures of the last `lorans eval` of the adapter with intervals, or those of its training."""
    for folder in sorted(run.evaluations.glob("[0-9]*"), key=lambda one: int(one.name), reverse=True):
        try:
            table = read_json(folder / "results.json")
            step = table.get("step", None if isinstance(run, RunAtStep) else manifest.adapter_step)
            if step != manifest.adapter_step:
                continue  # of another adapter of the run
            return list(_evaluated(table))
        except (UsageError, KeyError, TypeError, AttributeError):
            continue  # of another version, or damaged
    skipped = ("before/", "train_", "eval_runtime", "eval_samples", "eval_steps", "epoch", "padding")
    return [
        Figure(name, float(value), before=manifest.metrics.get(f"before/{name}"))
        for name, value in manifest.metrics.items()
        if isinstance(value, (int, float)) and not name.startswith(skipped) and not name.endswith("_bytes")
    ]


def _evaluated(table: Mapping[str, Any]) -> Iterator[Figure]:
    for suite in table["suites"]:
        for name, systems in suite["whole"]["figures"].items():
            other = systems.get("base") or systems.get("constant") or {}
            own = systems.get("adapter")
            if own and own["value"] is not None:
                yield Figure(f"{suite['name']}.{name}", own["value"], own["low"], own["high"], other.get("value"))


def _text(
    run: RunDir, manifest: Manifest, kind: str, proof: str, lineage: str, figures: Sequence[Figure]
) -> Iterator[str]:
    recipe, name = manifest.recipe, base_name(manifest)
    method = recipe.peft.tag()
    made = _MADE.get(kind, "{} with its adapter merged into the weights").format(name)
    trained = f"trained by lorans {manifest.lorans} with {method} (`[{recipe.objective.toml}]`)"
    yield f"# {recipe.task_name}\n\n{made}, {trained}."
    yield "\n## Base and data\n\n| | |\n|---|---|"
    yield f"| base | {name}{f' at {manifest.base.commit}' if manifest.base.commit else ''} |"
    yield f"| licence of the base | {_license(manifest) or 'not stated in its card'} |"
    yield f"| fingerprint of the base | `{manifest.base.fingerprint}` |"
    if (step := manifest.adapter_step) is not None:
        yield f"| trained | to step {step:,} of {manifest.plan.max_steps.value or step:,} |"
    yield f"| training rows | {_rows(manifest.data.train)} |"
    if manifest.data.eval:
        yield f"| evaluation rows | {_rows(manifest.data.eval)} |"
    yield "| licence of the data | as its owners state it; lorans does not know it |"
    if figures:
        yield "\n## Figures\n\n| figure | value (95 % interval) | base, or best constant answer |\n|---|---|---|"
        for one in figures:
            yield f"| {one.name} | {one} | {'' if one.before is None else f'{one.before:.4g}'} |"
    yield f"\n## Proof\n\n{proof}\n\n`export_report.json` has the comparison stage by stage."
    if lineage:
        yield f"\n## Lineage\n\nTip `{lineage}`. `lorans verify FOLDER` compares every file with it."
    yield f"\n## Loading\n\n{_loading(manifest, kind)}"
    yield f"\n## Recipe\n\n```toml\n{run.recipe.read_text(encoding='utf-8').strip()}\n```"
    if manifest.overrides:
        yield f"\nOverrides: {', '.join(f'`{one}`' for one in manifest.overrides)}."
    versions = ", ".join(f"{one} {manifest.packages[one]}" for one in _PACKAGES if one in manifest.packages)
    yield f"\nRun `{manifest.run_id}`, seed {manifest.seed}, {versions}."


def _rows(record: SourceRecord) -> str:
    """Describe rows by their number, their tokens and the hash of their source; its path is of one machine."""
    tokens = f", {record.tokens:,} tokens" if record.tokens else ""
    return f"{record.rows:,} of {Path(record.source).name or record.source}{tokens}, SHA-256 `{record.sha256[:16]}`"


def _loading(manifest: Manifest, kind: str) -> str:
    """Code that loads an artefact in each of its readers."""
    model, name = _CLASSES[manifest.recipe.task_type], base_name(manifest)
    readers = {"lorans": "lorans infer FOLDER"}
    if kind not in _LIBRARIES:
        readers["transformers"] = f'{model}.from_pretrained("FOLDER")'
    elif kind == "plain":
        base = f'{model}.from_pretrained("{name}")'
        readers["PEFT"] = f'PeftModel.from_pretrained({base}, "FOLDER")'
        readers["transformers"] = f'model = {base}; model.load_adapter("FOLDER")'
    if manifest.recipe.task_type == "CAUSAL_LM":
        readers |= _SERVERS.get(kind, {})
    rows = (f"| {reader} | `{call.replace('BASE', name)}` |" for reader, call in readers.items())
    return "\n".join(["| reader | call |", "|---|---|", *rows])


_SERVERS: Mapping[str, Mapping[str, str]] = {
    "plain": {
        "vLLM": "vllm serve BASE --enable-lora --lora-modules adapter=FOLDER --max-lora-rank RANK",
        "llama.cpp": "convert_lora_to_gguf.py FOLDER --base BASE",
    },
    "ollama": {
        "Ollama": "ollama create NAME -f FOLDER/Modelfile",
        "llama.cpp": "llama-cli -m FOLDER/FILE.gguf",
    },
    "merged": {
        "vLLM": "vllm serve FOLDER",
        "SGLang": "python -m sglang.launch_server --model-path FOLDER",
        "llama.cpp": "convert_hf_to_gguf.py FOLDER",
    },
}
"""How programs that write text load an artefact."""
