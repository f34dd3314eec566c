"""The proof that a Modelfile of Ollama and its GGUF file are the trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lora_ns.answers.opened import Opened
from lora_ns.answers.probes import Probe, Reply
from lora_ns.errors import UsageError
from lora_ns.exports.go_template import Turns, ollama_text
from lora_ns.exports.modelfile import MODELFILE, Modelfile, read_modelfile
from lora_ns.files.reading import LARGEST_RECIPE, is_file, read_text
from lora_ns.model.gguf import ENDING
from lora_ns.run.observer import Observer
from lora_ns.services.ollama_prompts import RunPrompts
from lora_ns.services.verify import Proof, Reader, Stage, parting, prove
from lora_ns.services.verify_gguf import GgufModel

DEFAULTS = {"temperature": "0.8", "top_p": "0.9", "top_k": "40", "repeat_penalty": "1", "repeat_last_n": "64"}
"""Values of Ollama for parameters that a Modelfile does not set (`api/types.go`)."""

_SHOWN = 30
"""Characters of a text in a message."""


def verify_ollama(opened: Opened, folder: Path, observer: Observer | None = None) -> Proof:
    """Compare a folder with a Modelfile and a GGUF file with the trained model of a run, stage by stage.

    Raises:
        UsageError: if the run's model does not write text.
        MissingError: if the `gguf` package is not installed.
    """
    return prove(opened, folder, _OllamaFolder(opened, folder), observer)


def sampling_of(opened: Opened) -> dict[str, str]:
    """Return Ollama's parameters for the generation settings of a run. Greedy decoding is temperature 0."""
    settings = opened.manifest.recipe.generation
    found = {"temperature": "0"}
    if settings.do_sample:
        values = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        found = {name: f"{value:g}" for name, value in values.items()}
    found["repeat_penalty"] = f"{settings.repetition_penalty:g}"
    if settings.repetition_penalty != 1:
        found["repeat_last_n"] = "-1"  # all tokens, as transformers does
    return {**found, "num_predict": str(settings.max_new_tokens)}


def stops_of(opened: Opened) -> tuple[str, ...]:
    """Return the texts of the tokens that end an answer."""
    decode = opened.tokenizer.decode
    return tuple(str(decode([number])) for number in sorted(opened.manifest.stop_token_ids))


def other_text(template: str, prompts: RunPrompts, chats: Iterable[Turns]) -> str:
    """Name the first conversation that becomes another text, but for a beginning-of-sequence token; empty if none."""
    bos = str(prompts.opened.tokenizer.bos_token or "")
    for turns in chats:
        try:
            found = ollama_text(template, turns).removeprefix(bos)
        except UsageError as error:
            return error.problems[0].what
        own = (prompts.text(turns) or "").removeprefix(bos)
        if own != found:
            place = parting(own, found)
            now, was = (text[place : place + _SHOWN] for text in (found, own))
            return f"a conversation of {len(turns)} turns becomes {now!r} at character {place}, not {was!r}"
    return ""


@dataclass(frozen=True)
class _OllamaFolder:
    """A folder that should be the trained model for Ollama."""

    opened: Opened
    folder: Path

    @cached_property
    def _modelfile(self) -> Modelfile:
        """Its Modelfile. Raises `UsageError`."""
        return read_modelfile(read_text(self.folder / MODELFILE, most=LARGEST_RECIPE))

    @cached_property
    def _model(self) -> GgufModel:
        return GgufModel(self.opened, self.folder / self._modelfile.source)

    @property
    def dtype(self) -> str:
        """The dtype to compute in: that of training."""
        return self._model.dtype

    @property
    def bound(self) -> float:
        """Largest difference that rounding explains."""
        return self._model.bound

    @property
    def has_same_tokens(self) -> bool:
        """True if the most probable tokens must be the same."""
        return self._model.has_same_tokens

    def stages(self, probes: list[Probe]) -> Iterator[Stage]:
        """Yield everything that is compared without the weights: of the GGUF file, then of the Modelfile."""
        if fault := self._files():
            yield Stage("files", fault)
            return
        for stage in self._model.stages(probes):
            yield stage
            if stage.name in {"files", "tokenizer"} and not stage.is_same:
                return
        prompts = RunPrompts(self.opened)
        chats = list(prompts.chats())
        yield Stage("Modelfile template", self._template(prompts, chats))
        yield Stage("Modelfile token ids", self._ids(prompts, chats))
        same = self._modelfile.system == prompts.system
        yield Stage("Modelfile system", "" if same else f"SYSTEM is not {prompts.system!r}")
        yield Stage("Modelfile stop", self._stops())
        yield Stage("Modelfile sampling", self._sampling())

    def ask(self, probes: list[Probe]) -> list[Reply]:
        """Return the answers of the GGUF file. Raises `LoransError` if it cannot be loaded."""
        return self._model.ask(probes)

    def others(self) -> AbstractContextManager[Reader | None]:
        """llama.cpp with the GGUF file, if its binding is installed."""
        return self._model.others()

    def _files(self) -> str:
        """What is wrong with the Modelfile and the file that it names; empty if nothing is."""
        try:
            found = self._modelfile
        except UsageError as error:
            return f"{MODELFILE}: {error.problems[0].what}"
        if found.others:
            return f"{MODELFILE}: `{found.others[0]}` changes the model or its prompts"
        file = self.folder / found.source
        if file.suffix != ENDING or not is_file(file):
            return f"{MODELFILE}: FROM names {found.source}, which is no GGUF file here"
        return ""

    def _template(self, prompts: RunPrompts, chats: Sequence[Turns]) -> str:
        if not self._modelfile.template:
            return "there is no TEMPLATE, so that Ollama chooses one"
        return other_text(self._modelfile.template, prompts, chats)

    def _ids(self, prompts: RunPrompts, chats: Sequence[Turns]) -> str:
        """The first conversation that becomes other tokens."""
        for turns in chats:
            try:
                text = ollama_text(self._modelfile.template or "", turns)
                found = self._model.encode(text, add_special_tokens=True)
            except UsageError as error:
                return error.problems[0].what
            expected = prompts.ids(turns)
            if found != expected:
                place = parting(expected, found)
                names = self.opened.tokenizer.convert_ids_to_tokens
                was, now = (names(list(ids[place : place + 1])) for ids in (expected, found))
                return f"token {place} of a conversation of {len(turns)} turns is {now}, not {was}"
        return ""

    def _stops(self) -> str:
        expected, found = set(stops_of(self.opened)), set(self._modelfile.parameters.get("stop", ()))
        return f"generation stops at {sorted(found)}, and not at {sorted(expected)}" if found != expected else ""

    def _sampling(self) -> str:
        return "; ".join(_other_values(self._modelfile.parameters, sampling_of(self.opened)))


def _other_values(parameters: Mapping[str, Sequence[str]], expected: Mapping[str, str]) -> Iterator[str]:
    """Yield the parameters with another value."""
    for name, value in expected.items():
        given = parameters.get(name, ())
        found = given[-1] if given else DEFAULTS.get(name)
        if found is None or not _is_number(found) or float(found) != float(value):
            yield f"`{name}` is {found or 'not set'}{'' if given else ' by default'}, not {value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
