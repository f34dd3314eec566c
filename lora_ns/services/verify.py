"""The proof that an artefact is the trained model: stage by stage, from its files to its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_ns.answers.larger_models import ask_by_layer, ask_trained
from lora_ns.answers.opened import Opened, Trained, computing_in, load_whole_base, loading_of
from lora_ns.answers.plain_model import PlainModel, open_model
from lora_ns.answers.probes import ROWS, Comparison, Probe, Reply, ask_probes, compare, probes_of, read_probes
from lora_ns.data.prepared import saved_rows
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.exports.lineage import REPORT
from lora_ns.files.disk import sha256_file
from lora_ns.files.reading import is_file, is_folder, read_json
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.folder import ADAPTER, GENERATION, SETTINGS, classify
from lora_ns.model.load import load_base
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.model.tokenizer import load_tokenizer
from lora_ns.run.observer import Observer, SilentObserver

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLOAT32, HALF, INT8 = 1e-4, 5e-2, 1e-1
"""Largest difference of two logits, relative to the largest: of equal weights, after rounding, over an int8 base."""

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
"""Generation settings that readers apply."""


@dataclass(frozen=True)
class Stage:
    """One step of the way from files to answers."""

    name: str
    fault: str = ""
    """What differs; empty if nothing does."""

    @property
    def is_same(self) -> bool:
        """True if nothing differs."""
        return not self.fault


@dataclass(frozen=True)
class Reading:
    """The answers of an artefact in a further program."""

    reader: str
    comparison: Comparison
    bound: float | None
    """Largest allowed difference of two logits; None if a loss was asked for."""


@dataclass(frozen=True)
class Proof:
    """An artefact beside the trained model."""

    folder: str
    run: str
    stages: tuple[Stage, ...]
    """The stages in order. Those after a stage that ends the comparison are missing."""
    comparison: Comparison | None
    """The answers; None if the artefact could not be asked."""
    bound: float | None
    """Largest allowed difference of two logits; None if a loss was asked for."""
    frozen: bool
    """True if the answers of the trained model are those that the run kept at its end."""
    others: tuple[Reading, ...] = ()
    """The answers in further programs that are installed."""

    @property
    def is_verified(self) -> bool:
        """True if no stage differs."""
        return all(stage.is_same for stage in self.stages)

    def __str__(self) -> str:
        if self.first is not None:
            return f"Not the trained model: {self.first.name}: {self.first.fault}."
        found, same = self.comparison, ", ".join(stage.name for stage in self.stages)
        if found is None:
            return f"The same {same}."
        about = f"on {found.probes} texts, logits differ by at most {found.largest_difference:.1e} of the largest"
        return f"The same {same} as the trained model; {about} (KL {found.divergence:.1e} nats)."

    @property
    def first(self) -> Stage | None:
        """The first stage that differs."""
        return next((stage for stage in self.stages if not stage.is_same), None)


class Reader(Protocol):
    """A further program that reads an artefact."""

    @property
    def name(self) -> str:
        """Its name and version."""

    @property
    def bound(self) -> float:
        """Largest difference of two logits that rounding explains."""

    @property
    def has_same_tokens(self) -> bool:
        """True if the most probable tokens must be the same."""

    def other_ids(self) -> tuple[str, list[int], list[int]] | None:
        """Return the first text with other tokens than it should have, those, and what it has."""

    def ask(self, probes: Sequence[Probe]) -> list[Reply]:
        """Return its answers. Raises `LoransError` if it cannot load the artefact."""


class Artefact(Protocol):
    """What is compared with the trained model."""

    @property
    def dtype(self) -> str:
        """The dtype to compute in."""

    @property
    def bound(self) -> float:
        """Largest difference of two logits that rounding explains."""

    @property
    def has_same_tokens(self) -> bool:
        """True if the most probable tokens must be the same."""

    def stages(self, probes: list[Probe]) -> Iterator[Stage]:
        """Yield everything that is compared without the weights."""

    def ask(self, probes: list[Probe]) -> list[Reply]:
        """Return its answers. Raises `LoransError` if it cannot be loaded."""

    def others(self) -> AbstractContextManager[Reader | None]:
        """A further program that reads it, if there is one and it is installed."""


def verify(
    opened: Opened,
    folder: Path,
    observer: Observer | None = None,
    lossy: bool = False,
    made: Sequence[Reply] | None = None,
    adapter: Path | None = None,
) -> Proof:
    """Compare a folder with the trained model of a run, stage by stage.

    Args:
        opened: the run.
        folder: an adapter of its base, or a model with all its weights.
        observer: receives the stages.
        lossy: whether a loss was asked for, so that the answers are measured without a bound.
        made: the answers that a lossy artefact gave before it was written, which it must give again.
        adapter: an adapter on the run's base that counts as trained, in the place of the run's own.

    Raises:
        UsageError: if the folder is neither.
    """
    if not is_folder(folder):
        raise UsageError(Problem(str(folder), "is no folder", "name an adapter or a model"))
    is_adapter = is_file(folder / ADAPTER)
    if not is_adapter and not is_file(folder / SETTINGS):
        what = f"has neither {ADAPTER} nor config.json"
        raise UsageError(Problem(str(folder), what, "name a folder with an adapter or a model"))
    observer = observer or SilentObserver()
    return prove(opened, folder, _Artefact(opened, folder, is_adapter, observer), observer, lossy, made, adapter)


def prove(
    opened: Opened,
    place: Path,
    artefact: Artefact,
    observer: Observer | None = None,
    lossy: bool = False,
    made: Sequence[Reply] | None = None,
    adapter: Path | None = None,
) -> Proof:
    """Compare an artefact with the trained model of a run; arguments and stages as in `verify`."""
    observer = observer or SilentObserver()
    stages: list[Stage] = []
    comparison, bound = None, None
    probes, frozen = probes_of_run(opened)
    expected = frozen if adapter is None else []
    for stage in artefact.stages(probes):
        stages.append(stage)
        if stage.name in {"files", "tokenizer"} and not stage.is_same:
            return Proof(str(place), str(opened.run.path), tuple(stages), None, None, bool(expected))
    is_frozen, others = bool(expected), list[Reading]()
    if not expected:
        observer.stage("asking the trained model")
        expected = ask_trained(opened, probes, artefact.dtype, observer, adapter)
    observer.stage("reading the artefact back, and comparing its answers")
    try:
        found = artefact.ask(probes)
    except LoransError as error:
        stages.append(Stage("weights", str(error.problems[0])))
    else:
        stated = _stated_loss(place)
        comparison = compare(expected, found)
        bound = None if lossy else max(artefact.bound, stated)
        stages += _of_answers(comparison, bound, artefact.has_same_tokens and not stated)
        stages += [] if made is None else [_stored(compare(made, found))]
        with artefact.others() as reader:
            if reader is not None:
                observer.stage("reading it back in llama.cpp, too")
                stages += _by_another(opened, reader, probes, expected, None if lossy else stated, others)
    return Proof(str(place), str(opened.run.path), tuple(stages), comparison, bound, is_frozen, tuple(others))


def _by_another(
    opened: Opened,
    reader: Reader,
    probes: list[Probe],
    expected: Sequence[Reply],
    stated: float | None,
    readings: list[Reading],
) -> Iterator[Stage]:
    """Yield the stages of a further program, and append its answers. `stated` is a loss to allow; None for any."""
    name = "llama.cpp"
    try:
        name = reader.name
        fault = reader.other_ids()
        yield Stage(f"{name} token ids", other_token(*fault, opened.tokenizer) if fault else "")
        comparison = compare(expected, reader.ask(probes))
    except LoransError as error:
        yield Stage(name, str(error.problems[0]))
        return
    bound = None if stated is None else max(reader.bound, stated)
    readings.append(Reading(name, comparison, bound))
    for stage in _of_answers(comparison, bound, reader.has_same_tokens and not stated):
        yield replace(stage, name=f"{name} {stage.name}")


_MARGIN = 1.25
"""Factor by which another machine may compute a stated loss."""


def _stated_loss(place: Path) -> float:
    """The largest difference of logits that the report of an artefact allows because a loss was asked for; else 0."""
    try:
        proof = read_json(place / REPORT if is_folder(place) else place.with_name(f"{place.name}.{REPORT}"))["proof"]
        return 0.0 if proof["bound"] is not None else _MARGIN * float(proof["comparison"]["largest_difference"])
    except (UsageError, KeyError, TypeError, ValueError):
        return 0.0  # there is none, or it is damaged: the usual bound counts


def _of_answers(comparison: Comparison, bound: float | None, has_same_tokens: bool) -> Iterator[Stage]:
    """Yield the stages of logits and of tokens."""
    if bound is None:
        return
    found = comparison.largest_difference
    fault = f"differ by {found:.1e} of the largest, more than {bound:.0e}" if not found <= bound else ""
    yield Stage("logits", fault)
    if has_same_tokens:
        share = comparison.same_tokens
        yield Stage("greedy tokens", f"{1 - share:.1%} of the most probable tokens are others" if share < 0.99 else "")


def _stored(comparison: Comparison) -> Stage:
    """The stage of an artefact that gives the same answers once it is read back."""
    found = comparison.largest_difference
    fault = f"logits change by {found:.1e} of the largest when it is read back" if not found <= FLOAT32 else ""
    return Stage("stored weights", fault)


def probes_of_run(opened: Opened) -> tuple[list[Probe], list[Reply]]:
    """The probes that a run kept with its answers, or new ones without answers."""
    if is_file(opened.run.probes):
        return read_probes(opened.run.probes)
    rows: list[Mapping[str, Any]] = []
    for part in ("eval", "train"):
        if not rows and is_folder(opened.run.data / part):
            try:
                rows = [row for row, _ in zip(saved_rows(opened.run.data / part), range(ROWS), strict=False)]
            except ValueError:
                continue  # it is damaged, and the neutral texts remain
    return probes_of(rows, opened.tokenizer), []


@dataclass(frozen=True)
class _Artefact:
    """A folder that should be the trained model."""

    opened: Opened
    folder: Path
    is_adapter: bool
    observer: Observer

    @cached_property
    def dtype(self) -> str:
        """The dtype to compute in: that of training, or for a quantised model its own, which its kernels may need."""
        trained = self.opened.manifest.plan.dtype.value
        settings = {} if self.is_adapter else read_json(self.folder / SETTINGS)
        if not isinstance(settings, dict) or not settings.get("quantization_config"):
            return trained
        return str(settings.get("dtype") or settings.get("torch_dtype") or trained)

    def stages(self, probes: list[Probe]) -> Iterator[Stage]:
        """Yield everything that is compared without the weights."""
        yield Stage("files", self._files())
        try:
            tokenizer = self.tokenizer
        except LoransError as error:
            yield Stage("tokenizer", str(error.problems[0]))
            return
        if self.opened.manifest.recipe.objective.writes_text:
            yield Stage("template", _other_text(self.opened.tokenizer, tokenizer))
        yield Stage("token ids", _other_ids(probes, tokenizer))
        if self.opened.manifest.recipe.objective.writes_text:
            yield Stage("stop tokens", self._stops())
            yield Stage("sampling", self._sampling())

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own tokenizer. Raises `ModelError`."""
        return load_tokenizer(self.folder, self.opened.manifest.recipe.model.trust_remote_code)

    def _files(self) -> str:
        """What is wrong with the weight files; empty if nothing is."""
        if self.is_adapter:
            return "" if is_file(self.folder / WEIGHTS) else f"{WEIGHTS} is missing"
        try:
            contents = classify(self.folder)
        except LoransError as error:
            return str(error.problems[0].what)
        if not contents.weights:
            return "there are no weights"
        unread = [*contents.others, *(file.name for file in sorted(self.folder.glob("*.bin")))]
        unread += ["original/"] if is_folder(self.folder / "original") else []
        return f"{unread[0]} is no part of the model, and some readers prefer it" if unread else ""

    def _stops(self) -> str:
        expected, found = (_ended(_settings(folder)) for folder in (self.opened.run.adapter, self.folder))
        return f"generation stops at {found or 'nothing'}, and not at {expected}" if found != expected else ""

    def _sampling(self) -> str:
        expected, found = (_settings(folder) for folder in (self.opened.run.adapter, self.folder))
        names = [name for name in SAMPLING if expected.get(name) != found.get(name)]
        return "; ".join(f"`{name}` is {found.get(name)}, not {expected.get(name)}" for name in names)

    @cached_property
    def _model(self) -> PlainModel:
        """The model in the folder, whose weights are not loaded."""
        return open_model(computing_in(self.opened, self.dtype), self.folder)

    @cached_property
    def _is_own(self) -> bool:
        """True for the run's own adapter, which belongs to the base with the adapters of earlier runs.

        Any other belongs to the stored base.
        """
        return sha256_file(self.folder / WEIGHTS) == self.opened.manifest.adapter.get(WEIGHTS)

    def _load(self) -> Trained:
        if not self.is_adapter:
            return self._model.load()
        opened, loading = self.opened, loading_of(self.opened.manifest)
        whole = load_whole_base(opened.run, opened.manifest, opened.base, loading) if self._is_own else None
        model = load_adapter(whole or load_base(opened.base, loading), self.folder)
        return Trained(opened.run, opened.manifest, opened.base, self.tokenizer, model)

    def others(self) -> AbstractContextManager[Reader | None]:
        """None: torch computes for every program here that reads folders."""
        return nullcontext()

    def ask(self, probes: list[Probe]) -> list[Reply]:
        """Return its answers, computed in the dtype of training. Raises `LoransError` if it cannot be loaded."""
        opened: Opened = self.opened if self.is_adapter else self._model
        if not (self.is_adapter and self._is_own and opened.manifest.base_adapters):
            adapter = self.folder if self.is_adapter else None
            loading = loading_of(opened.manifest)
            found = ask_by_layer(opened.base, loading, adapter, probes, self.dtype, self.observer)
            if found is not None:
                return found
        model = self._load().model
        return ask_probes(model, probes, model.device, self.dtype)

    @property
    def has_same_tokens(self) -> bool:
        """True if the most probable tokens must be the same."""
        return self.bound <= FLOAT32

    @property
    def bound(self) -> float:
        """Largest difference that rounding explains."""
        manifest = self.opened.manifest
        if manifest.recipe.quantization.rounds_inputs and not self.is_adapter:
            return INT8
        stored = "F32" if self.is_adapter else self._model.base.facts.largest_dtype
        return FLOAT32 if self.dtype == "float32" and stored == "F32" else HALF


_TURNS = (
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
)


def _other_text(expected: PreTrainedTokenizerBase, found: PreTrainedTokenizerBase) -> str:
    """The first place at which two tokenizers render a conversation as different texts; empty if they do not."""
    own, other = rendered(expected), rendered(found)
    if own == other:
        return ""
    if own is None or other is None:
        return "there is no chat template" if other is None else "there is a chat template, and training had none"
    place = parting(own, other)
    return f"a conversation becomes {other[place : place + 30]!r} at character {place}, not {own[place : place + 30]!r}"


def rendered(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The text of a conversation; None without a template."""
    if not tokenizer.chat_template:
        return None
    for turns in (_TURNS, _TURNS[1:]):
        try:
            return str(tokenizer.apply_chat_template([*turns], tokenize=False, add_generation_prompt=True))
        except Exception:  # a template raises whatever its author wrote, here at a turn of the system
            continue
    return ""


def _other_ids(probes: list[Probe], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first text that a tokenizer turns into other tokens; empty if there is none."""
    for probe in probes:
        if probe.text is None:
            continue
        expected, found = list(probe.inputs["input_ids"]), list(tokenizer(probe.text)["input_ids"])
        if expected != found:
            return other_token(probe.text, expected, found, tokenizer)
    return ""


def other_token(text: str, expected: Sequence[int], found: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the first token of a text that is another one."""
    place = parting(expected, found)
    was, now = (tokenizer.convert_ids_to_tokens(list(ids[place : place + 1])) for ids in (expected, found))
    return f"token {place} of {text[:30]!r} is {now}, not {was}"


def parting(one: Sequence[object], other: Sequence[object]) -> int:
    """The first place at which two sequences differ, or at which the shorter one ends."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _settings(folder: Path) -> Mapping[str, Any]:
    """The generation settings of a folder; empty if it has none that can be read."""
    try:
        found = read_json(folder / GENERATION)
    except UsageError:
        return {}
    return found if isinstance(found, dict) else {}


def _ended(settings: Mapping[str, Any]) -> list[int]:
    """The tokens at which generation stops, sorted."""
    ids = settings.get("eos_token_id")
    return sorted(ids if isinstance(ids, list) else [] if ids is None else [ids])
