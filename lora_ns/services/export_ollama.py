"""Exporting a run for Ollama: a GGUF file with a Modelfile, which has template, stop tokens and sampling settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import Opened
from lora_ns.errors import Problem, UsageError
from lora_ns.exports.modelfile import MODELFILE, Modelfile, quoted
from lora_ns.exports.ollama_template import REMEDY
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.model.gguf import ENDING
from lora_ns.model.load import positions
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer
from lora_ns.services.export import ExportResult, GgufFile, write_card
from lora_ns.services.export_gguf import export_packaged
from lora_ns.services.ollama_prompts import RunPrompts
from lora_ns.services.verify import Proof
from lora_ns.services.verify_ollama import other_text, sampling_of, stops_of, verify_ollama

_CONTEXT = 4096
"""Ollama's own size of the context, and the least that is written for a model that has it."""


def export_ollama(
    run: RunDir,
    output: Path,
    kind: str = "f16",
    llama_cpp: Path | None = None,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> ExportResult:
    """Write a run as a folder with a GGUF file and a Modelfile, and compare both with the trained model.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        kind: type of the weights, as in `export_gguf`.
        llama_cpp: a folder of llama.cpp, as in `export_gguf`.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.

    Raises:
        UsageError: if a TEMPLATE of Ollama cannot do what the run's chat template does, or as `export_gguf` does.
        MissingError: as `export_gguf` does.
        RunError: if the folder differs from the trained model; it is kept, and its report says so.
    """
    return export_packaged(run, output, kind, llama_cpp, base_path, force, observer, _Ollama())


def modelfile_of(opened: Opened) -> Modelfile:
    """Return the Modelfile of a run, whose file has no name yet. Raises `UsageError` if Ollama cannot do the same."""
    prompts = RunPrompts(opened)
    parts = prompts.parts()
    chats = list(prompts.chats())
    if fault := other_text(str(parts), prompts, chats):
        what = f"Ollama's TEMPLATE does not do what the chat template does: {fault}"
        raise UsageError(Problem("", what, REMEDY))
    bos, tokenizer = opened.tokenizer.bos_token_id, opened.tokenizer
    if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]:
        parts = parts.without(str(tokenizer.bos_token))
        if prompts.ids(chats[0])[:1] != [bos]:
            what = f"llama.cpp puts {tokenizer.bos_token} before every text, and the conversations of the run have none"
            raise UsageError(Problem("", what, "export it as `--to merged`"))
    return Modelfile("", str(parts), prompts.system, _parameters(opened))


def _parameters(opened: Opened) -> dict[str, tuple[str, ...]]:
    """Ollama's parameters for stop tokens, sampling and lengths."""
    recipe = opened.manifest.recipe
    length = getattr(recipe.objective, "max_seq_length", None) or 0
    wanted = max(_CONTEXT, length + recipe.generation.max_new_tokens)
    most = positions(opened.base, recipe.model.trust_remote_code) or wanted
    single = {**sampling_of(opened), "num_ctx": str(min(wanted, most))}
    return {"stop": stops_of(opened), **{name: (value,) for name, value in single.items()}}


@dataclass
class _Ollama:
    """A GGUF file with a Modelfile."""

    kind: str = "ollama"
    modelfile: Modelfile = field(default_factory=lambda: Modelfile(""))

    def prepare(self, opened: Opened, output: Path) -> None:
        """Make the Modelfile. Raises `UsageError`."""
        if output.suffix == ENDING:
            raise UsageError(Problem(str(output), "is a file, and Ollama needs a Modelfile too", "name a folder"))
        self.modelfile = modelfile_of(opened)
        for value in (*self.modelfile.parameters["stop"], self.modelfile.template, self.modelfile.system):
            quoted(value or "")

    def prove(self, opened: Opened, file: Path, made: GgufFile, observer: Observer) -> tuple[GgufFile, Proof]:
        """Write the Modelfile beside the file, and compare both."""
        with telling_disk_errors(file.parent):
            write_atomic(file.parent / MODELFILE, str(replace(self.modelfile, source=f"./{file.name}")))
        notes = (*made.notes, *RunPrompts(opened).notes())
        return replace(made, notes=notes), verify_ollama(opened, file.parent, observer)

    def describe(self, staged: Path, result: ExportResult, run: RunDir) -> None:
        """Write the card."""
        write_card(staged, result, run)
