"""The proof that a GGUF file is the trained model: its header as llama.cpp reads it, its weights by transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.gguf_model import alone, trained_configuration
from lora_ns.answers.opened import Opened, loading_of, stored_base
from lora_ns.answers.probes import Probe, Reply, ask_probes
from lora_ns.errors import LoransError, ModelError, Problem, UsageError
from lora_ns.exports.gguf_file import Model, differing_setting, write_model
from lora_ns.exports.gguf_lora import add_adapter
from lora_ns.exports.gguf_reading import TextReader
from lora_ns.exports.gguf_tokens import STOPS, Vocabulary, read_vocabulary, vocabulary_of
from lora_ns.files.reading import is_file
from lora_ns.model.gguf import ENDING, read_gguf
from lora_ns.model.load import load_base
from lora_ns.model.tokenizer import load_tokenizer
from lora_ns.quantizers import NoQuantization
from lora_ns.run.observer import Observer
from lora_ns.services.llama_cpp_reader import is_installed, reader_of
from lora_ns.services.verify import (
    FLOAT32,
    HALF,
    INT8,
    Proof,
    Reader,
    Stage,
    other_token,
    probes_of_run,
    prove,
    rendered,
)

if TYPE_CHECKING:
    from gguf import GGUFReader

BOUNDS = {
    "ALL_F32": FLOAT32,
    "MOSTLY_F16": 5e-3,
    "MOSTLY_BF16": HALF,
    "MOSTLY_Q8_0": 5e-2,
    "MOSTLY_Q6_K": 0.1,
    "MOSTLY_Q5": 0.25,
    "MOSTLY_Q4": 0.5,
    "MOSTLY_IQ4": 0.5,
}
"""Largest difference of two logits, relative to the largest, by the start of llama.cpp's name of the type."""

_COARSER = 1.0
"""The same for types with less than four bits."""


def verify_gguf(opened: Opened, file: Path, observer: Observer | None = None) -> Proof:
    """Compare a GGUF file with the trained model of a run, stage by stage.

    Raises:
        UsageError: if there is no such file, or the run's model does not write text.
        MissingError: if the `gguf` package is not installed.
    """
    if not is_file(file):
        raise UsageError(Problem(str(file), "is no file", "name a GGUF file"))
    if not opened.manifest.recipe.objective.writes_text:
        raise UsageError(Problem(str(file), "the run trained a classifier, and a GGUF file is none", "name a folder"))
    kind = GgufLora if _is_adapter(file) else GgufModel
    return prove(opened, file, kind(opened, file), observer)


def _is_adapter(file: Path) -> bool:
    """True if a file is an adapter; False for a model, and for what cannot be read."""
    try:
        read_gguf(file)
    except ModelError:
        return False
    from gguf import GGUFReader  # `read_gguf` has found that it is installed

    entry = GGUFReader(file).get_field("general.type")
    return entry is not None and entry.contents() == "adapter"


@dataclass(frozen=True)
class _GgufFile:
    """A GGUF file that comes from a run."""

    opened: Opened
    file: Path

    @property
    def dtype(self) -> str:
        """The dtype to compute in: that of training."""
        return self.opened.manifest.plan.dtype.value

    @property
    def _probes(self) -> list[Probe]:
        return probes_of_run(self.opened)[0]

    def _texts(self, probes: list[Probe]) -> list[tuple[str, list[int], bool]]:
        """Texts with their tokens, and whether special tokens are added: the neutral ones, and a conversation."""
        texts = [(probe.text, list(probe.inputs["input_ids"]), True) for probe in probes if probe.text is not None]
        own = self.opened.tokenizer
        if chat := rendered(own):
            texts.append((chat, list(own(chat, add_special_tokens=False)["input_ids"]), False))
        return texts


@dataclass(frozen=True)
class GgufModel(_GgufFile):
    """A GGUF file that should be the trained model."""

    @property
    def bound(self) -> float:
        """Largest difference that rounding explains."""
        kind = self._kind
        own = next((bound for name, bound in BOUNDS.items() if kind.startswith(name)), _COARSER)
        least = FLOAT32 if self.dtype == "float32" else HALF
        if self.opened.manifest.recipe.quantization.rounds_inputs:
            least = INT8
        return max(own, least)

    @property
    def has_same_tokens(self) -> bool:
        """True for float32 and float16, in float32."""
        return self.dtype == "float32" and self._kind in {"ALL_F32", "MOSTLY_F16"} and self.bound < HALF

    @property
    def _kind(self) -> str:
        """llama.cpp's name of the file's type."""
        import gguf

        entry = self._reader.get_field("general.file_type")
        try:
            return "" if entry is None else gguf.LlamaFileType(entry.contents()).name
        except ValueError:
            return ""

    @cached_property
    def _reader(self) -> GGUFReader:
        from gguf import GGUFReader

        return GGUFReader(self.file)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return read_vocabulary(self._reader)

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        return trained_configuration(self.opened)

    def stages(self, probes: list[Probe]) -> Iterator[Stage]:
        """Yield everything that is compared without the weights."""
        try:
            read_gguf(self.file)
        except LoransError as error:
            yield Stage("files", str(error.problems[0].what))
            return
        yield Stage("files")
        yield Stage("settings", differing_setting(self._reader, self._config))
        try:
            encode = self.encode
        except LoransError as error:
            yield Stage("tokenizer", str(error.problems[0].what))
            return
        yield Stage("tokenizer")
        same = self._vocabulary.template == self.opened.tokenizer.chat_template
        yield Stage("template", "" if same else "the chat template is another text")
        yield Stage("token ids", self._other_ids(probes, encode))
        yield Stage("stop tokens", self._stops())

    @cached_property
    def encode(self) -> Callable[..., list[int]]:
        """Its tokenizer, as llama.cpp reads it or else transformers. Raises `LoransError` if neither can be asked."""
        try:
            return TextReader(self._vocabulary)
        except UsageError:
            if self._vocabulary.model not in {"gpt2", "llama"}:
                raise
            tokenizer = load_tokenizer(self.file.parent, gguf_file=str(self.file.absolute()))
            return lambda text, **more: list(tokenizer(text, **more)["input_ids"])

    def _other_ids(self, probes: list[Probe], encode: Callable[..., list[int]]) -> str:
        """The first text that becomes other tokens; empty if there is none."""
        for text, expected, is_whole in self._texts(probes):
            found = encode(text, add_special_tokens=is_whole)
            if found != expected:
                return other_token(text, expected, found, self.opened.tokenizer)
        return ""

    def others(self) -> AbstractContextManager[Reader | None]:
        """llama.cpp, if its binding is installed."""
        if not is_installed():
            return nullcontext()
        return nullcontext(reader_of(self.file, self.bound, self.has_same_tokens, self._texts(self._probes)))

    def _stops(self) -> str:
        found = sorted({self._vocabulary.ids[name] for name in STOPS if name in self._vocabulary.ids})
        expected = sorted(self.opened.manifest.stop_token_ids)
        return f"generation stops at {found or 'nothing'}, and not at {expected}" if found != expected else ""

    def ask(self, probes: list[Probe]) -> list[Reply]:
        """Return its answers, computed in the dtype of training. Raises `LoransError` if it cannot be loaded."""
        loading = replace(loading_of(self.opened.manifest), quantization=NoQuantization(), added_tokens=())
        with alone(self.file, self._config) as base:
            model = load_base(base, loading)
        return ask_probes(model, probes, model.device, self.dtype)


@dataclass(frozen=True)
class GgufLora(_GgufFile):
    """A GGUF LoRA that should be a run's adapter."""

    @property
    def bound(self) -> float:
        """Largest difference that rounding explains."""
        return FLOAT32 if self.dtype == "float32" else HALF

    @property
    def has_same_tokens(self) -> bool:
        """True if training computed in float32."""
        return self.bound == FLOAT32

    def stages(self, probes: list[Probe]) -> Iterator[Stage]:
        """Yield everything that is compared without the weights: an adapter has little else."""
        del probes
        try:
            read_gguf(self.file)
        except LoransError as error:
            yield Stage("files", str(error.problems[0].what))
        else:
            yield Stage("files")

    @contextmanager
    def others(self) -> Iterator[Reader | None]:
        """llama.cpp with the adapter and a GGUF file of the stored base, if its binding is installed."""
        base, config = self.opened.base, trained_configuration(self.opened)
        is_whole = base.gguf is None and self.opened.manifest.recipe.quantization.bits is None
        if not is_installed() or not is_whole or not any(base.path.glob("*.safetensors")):
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"base{ENDING}"
            vocabulary = vocabulary_of(self.opened.tokenizer, config["vocab_size"], self.opened.manifest.stop_token_ids)
            write_model(file, base.path, Model("base", config, vocabulary), "f32")
            texts = self._texts(self._probes)
            yield reader_of(file, self.bound, self.has_same_tokens, texts, adapter=self.file)

    def ask(self, probes: list[Probe]) -> list[Reply]:
        """Return the answers of the stored base with the update in the file."""
        model = stored_base(self.opened)
        add_adapter(model, self.file, trained_configuration(self.opened))
        return ask_probes(model, probes, model.device, self.dtype)
