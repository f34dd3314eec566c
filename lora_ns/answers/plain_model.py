"""A plain model folder, such as a merged one, that answers beside the runs it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.opened import Opened, Trained, loading_of, record_base
from lora_ns.errors import ModelError, Problem, UsageError
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.methods.lora import Lora
from lora_ns.model.files import Base, find_base
from lora_ns.model.load import head_names, load_base
from lora_ns.model.tokenizer import choose_pad_token, load_tokenizer, stop_token_ids, template_hash
from lora_ns.quantizers import NoQuantization
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PlainModel(Opened):
    """A model without an adapter, with its own tokenizer, template and stop tokens; the rest is as in a run."""

    @property
    def adapter(self) -> None:
        """None: the weights hold everything."""

    def load(self) -> Trained:
        """Load its weights. Raises `ModelError`."""
        message = f"out of memory while loading {self.base.path}"
        with telling_memory_errors(lambda: message, "free memory"):
            model = load_base(self.base, loading_of(self.manifest)).eval()
        _check_head(self.base, model, self.manifest.recipe.task_type)
        return Trained(self.run, self.manifest, self.base, self.tokenizer, model)


def open_model(beside: Opened, folder: Path) -> PlainModel:
    """Open a model folder to answer the items of a run.

    Args:
        beside: the run, whose row format and generation settings count.
        folder: the folder.

    Raises:
        UsageError: if it is an adapter.
        ModelError: if it is no model.
    """
    if (folder / "adapter_config.json").is_file() or (folder / "manifest.json").is_file():
        what = "is an adapter or a run, not a model with all its weights"
        raise UsageError(Problem(str(folder), what, "name a run directory beside the first one, without `--model`"))
    return model_of(beside.manifest, beside.run, folder)


def model_of(manifest: Manifest, run: RunDir, folder: Path) -> PlainModel:
    """Open a model folder to answer as a run does.

    Args:
        manifest: the manifest of the run, whose row format and generation settings count.
        run: the directory that messages name.
        folder: the folder.

    Raises:
        ModelError: if it is no model.
    """
    base = find_base(str(folder.absolute()), "main", [], download=False)
    assert base is not None, "a folder is never on the hub"
    tokenizer = load_tokenizer(base.path, manifest.recipe.model.trust_remote_code)
    stops = stop_token_ids(tokenizer, base.path)
    choose_pad_token(tokenizer, stops)
    own = {
        "base": record_base(base),
        "recipe": manifest.recipe.model_copy(update={"quantization": NoQuantization(), "peft": Lora(method="lora")}),
        "stop_token_ids": stops,
        "chat_template_sha256": template_hash(tokenizer),
        "base_adapters": (),
        "init_adapter": None,
        "added_tokens": (),
    }
    return PlainModel(run, manifest.model_copy(update=own), base, tokenizer)


def _check_head(base: Base, model: PreTrainedModel, task_type: str) -> None:
    """Check that a classifier's head is among the weights: a new one is random. Raises `ModelError`."""
    heads = head_names(model) if task_type != "CAUSAL_LM" else ()
    stored = {part for name in base.facts.matrices for part in name.split(".")}
    if missing := [name for name in heads if name not in stored]:
        what = f"has no weights of the head `{missing[0]}`, so it is no model of this task"
        raise ModelError(Problem(str(base.path), what, "name a model that was merged with its head"))
