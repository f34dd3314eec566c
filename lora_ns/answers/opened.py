"""Reopening a trained run from its run directory and verifying it against the manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.changed_files import REFUSED, REFUSED_ALWAYS, Force, check_unchanged, names_saved
from lora_ns.answers.generate import Writer
from lora_ns.data.rows import Row
from lora_ns.errors import ModelError, Problem, UsageError
from lora_ns.formats import FORMATS, Columns, Format, TextClassification
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.files import PACKAGED, Base, find_base
from lora_ns.model.load import Loading, load_base, max_positions, positions
from lora_ns.model.saved_adapter import load_adapter, load_trainable, merge_adapters, put_weights
from lora_ns.model.tokenizer import choose_pad_token, load_tokenizer, template_hash
from lora_ns.model.vocabulary import Vocabulary, vocabulary
from lora_ns.objectives.frozen_start import FrozenStart
from lora_ns.plan.plan import Derived
from lora_ns.run.directory import RunDir
from lora_ns.run.earlier import kept_problems
from lora_ns.run.manifest import BaseRecord, Manifest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Opened:
    """A finished run, verified against its manifest. It can render rows; weights are not loaded."""

    run: RunDir
    manifest: Manifest
    base: Base
    tokenizer: PreTrainedTokenizerBase

    def room(self) -> int | None:
        """Positions for prompt and answer; None if the model does not declare a limit."""
        return room_for_text(self.manifest, positions(self.base, self.manifest.recipe.model.trust_remote_code))

    def vocabulary(self) -> Vocabulary:
        """The tokens that the model has embeddings for."""
        return vocabulary(self.base, self.tokenizer, self.manifest.added_tokens)

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter; None if this is a model without one."""
        return self.run.adapter

    def load(self) -> Trained:
        """Load the weights, as `load` does."""
        return load(self)


@dataclass(frozen=True)
class Trained(Opened):
    """A finished run with its model loaded."""

    model: PeftModel

    def room(self) -> int | None:
        """Positions for prompt and answer; None if the model does not declare a limit."""
        return room_for_text(self.manifest, max_positions(self.model))

    def load(self) -> Trained:
        """This run, whose weights are loaded."""
        return self


def open_trained(
    run: RunDir, base_path: Path | None = None, dtype: str | None = None, force: Force = REFUSED
) -> Trained:
    """Open a run and load its base and adapter: `open_run`, then `load`."""
    return load(open_run(run, base_path, dtype, force))


def open_run(run: RunDir, base_path: Path | None = None, dtype: str | None = None, force: Force = REFUSED) -> Opened:
    """Open a run without loading its weights.

    Args:
        run: the run directory.
        base_path: path to the base model, if it has moved.
        dtype: the dtype to compute in, if not that of training.
        force: the response to a part that does not match the manifest.

    Raises:
        UsageError: if the run is not finished, or its adapter, tokenizer or template has changed.
        ModelError: if the base is missing, or is not the one that the adapter was trained on.
    """
    manifest = run.read()
    base, tokenizer = reopen(run, manifest, base_path, force)
    opened = Opened(run, manifest, base, tokenizer)
    return opened if dtype is None else computing_in(opened, dtype)


def computing_in(opened: Opened, dtype: str) -> Opened:
    """The run, to be loaded in another dtype."""
    manifest = opened.manifest
    plan = manifest.plan.model_copy(update={"dtype": Derived(value=dtype, origin="--set", why="requested")})
    return replace(opened, manifest=manifest.model_copy(update={"plan": plan}))


def load(opened: Opened, adapter: Path | None = None) -> Trained:
    """Load the weights of an opened run, or of its base with another adapter.

    Raises:
        ModelError: if the weights of the base contradict its configuration.
    """
    billions = opened.manifest.base.parameters / 1e9
    message = f"out of memory while loading a base of {billions:,.2f} billion parameters"
    with telling_memory_errors(lambda: message, "free memory, or choose a smaller dtype with `--dtype`"):
        bare = load_whole_base(opened.run, opened.manifest, opened.base, loading_of(opened.manifest))
        model = load_adapter(bare, adapter or opened.run.adapter)
    return Trained(opened.run, opened.manifest, opened.base, opened.tokenizer, model)


def load_with_start(opened: Opened) -> tuple[Trained, FrozenStart | None]:
    """Load the weights of an opened run, and the start of its training if that is not the base alone.

    Raises:
        UsageError: if the adapter that training started from is missing or damaged.
        ModelError: like `load`.
    """
    run, manifest = opened.run, opened.manifest
    if manifest.init_adapter is None:
        return load(opened), None
    if problems := kept_problems(run, manifest, starts=True):
        raise UsageError(problems)
    bare = load_whole_base(run, manifest, opened.base, loading_of(manifest))
    model = load_trainable(bare, run.start)
    start = FrozenStart(model)
    put_weights(model, run.adapter)
    model.requires_grad_(requires_grad=False).eval()
    return Trained(run, manifest, opened.base, opened.tokenizer, model), start


def load_whole_base(run: RunDir, manifest: Manifest, base: Base, loading: Loading) -> PreTrainedModel:
    """Load the base of a run, and merge the adapters of earlier runs into it that it was trained on."""
    folders = [run.base_adapter(number) for number in range(len(manifest.base_adapters))]
    return merge_adapters(load_base(base, loading), folders)


def stored_base(opened: Opened) -> PreTrainedModel:
    """The stored base with whole weights, those of a quantised base as training had them."""
    loading = replace(loading_of(opened.manifest), device="cpu")
    if loading.quantization.bits is None:
        return load_base(opened.base, loading)
    return loading.quantization.in_full(load_base(opened.base, replace(loading, dtype="float32")))


def reopen(
    run: RunDir, manifest: Manifest, base_path: Path | None = None, force: Force = REFUSED
) -> tuple[Base, PreTrainedTokenizerBase]:
    """The base and tokenizer of a run, after verifying all its parts against the manifest. Raises like `open_run`."""
    names = names_saved(run, manifest)
    base = reopen_base(manifest, base_path, force)
    check_unchanged(run, manifest, base, names, force)
    for problem in kept_problems(run, manifest, starts=False):
        raise UsageError(problem)
    tokenizer = load_tokenizer(run.adapter, manifest.recipe.model.trust_remote_code)
    choose_pad_token(tokenizer, manifest.stop_token_ids)
    if template_hash(tokenizer) != manifest.chat_template_sha256:
        what = "this is not the chat template that the run was trained with"
        force.refuse(Problem(str(run.adapter), what, "restore chat_template.jinja"))
    return base, tokenizer


def reopen_base(
    manifest: Manifest, path: Path | None = None, force: Force = REFUSED_ALWAYS, advice: str = "`--base`"
) -> Base:
    """Find the base of a run and verify its fingerprint. Raises `ModelError`.

    Args:
        manifest: the run's manifest.
        path: path to the base model, if it has moved.
        force: the response to a base with another fingerprint.
        advice: the option that sets the path, as the message shows it.
    """
    record = manifest.base
    try:
        base = find_recorded(record, path)
    except ModelError as error:
        raise ModelError(_of_base(problem, advice) for problem in error.problems) from None
    assert base is not None, "`find_base` with `download` returns a base or raises"
    if not base.is_fingerprint(record.fingerprint):
        what = f"this is not the base that the adapter was trained on ({record.name}, {record.fingerprint[:12]})"
        force.refuse(Problem(str(base.path), what, f"restore it, or give the right folder with {advice}"), ModelError)
    return replace(base, name=record.name)


def _of_base(problem: Problem, advice: str) -> Problem:
    """Describe a fault of the base of a run. If no file is named, the base may have moved."""
    if problem.where:
        return replace(problem, remedy=f"{problem.remedy}, or give another folder with {advice}")
    return Problem("", f"the base of this run: {problem.what}", f"give its current folder with {advice}")


def find_recorded(record: BaseRecord, path: Path | None = None, download: bool = True) -> Base | None:
    """Find a base by its record, without verifying it; arguments as in `reopen_base` and `find_base`."""
    gguf_file = record.gguf_file
    if path is None and record.moved_to is not None:
        path = Path(record.moved_to)
    if path is not None:
        name, gguf_file = str(path.absolute()), gguf_file if (path / (gguf_file or "")).is_file() else None
    elif record.name.startswith(PACKAGED) or record.commit:
        name = record.name
    else:
        name = record.path
    return find_base(name, record.commit or "main", [Path.cwd()], download, gguf_file)


def loading_of(manifest: Manifest) -> Loading:
    """The arguments with which a run loads its base."""
    recipe, plan = manifest.recipe, manifest.plan
    return Loading(
        task_type=recipe.task_type,
        dtype=plan.dtype.value,
        device=plan.device.value,
        attn_implementation=plan.attn_implementation.value,
        quantization=recipe.quantization,
        trust_remote_code=recipe.model.trust_remote_code,
        labels=manifest.labels,
        problem_type=manifest.problem_type,
        added_tokens=manifest.added_tokens,
    )


def record_base(base: Base) -> BaseRecord:
    """The manifest's record of a base."""
    return BaseRecord(
        name=base.name,
        path=str(base.path),
        commit=base.commit,
        gguf_file=base.gguf_file,
        fingerprint=base.fingerprint,
        tokenizer_fingerprint=base.tokenizer_fingerprint,
        parameters=base.facts.parameters,
    )


def format_of(manifest: Manifest) -> Format:
    """The row format of a run."""
    form = FORMATS[manifest.data.format](Columns(**manifest.data.columns))
    if isinstance(form, TextClassification) and manifest.problem_type:
        return replace(form, problem_type=manifest.problem_type)
    return form


def kept_rows(manifest: Manifest) -> list[Row]:
    """The evaluation rows that the manifest stores."""
    return [Row(f"evaluation row {number}", row) for number, row in enumerate(manifest.data.eval_rows, start=1)]


def make_writer(manifest: Manifest, model: PeftModel | PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Writer:
    """A text generator for the model of a run."""
    room = room_for_text(manifest, max_positions(model))
    return Writer(model, tokenizer, manifest.stop_token_ids, manifest.plan.dtype.value, room)


def room_for_text(manifest: Manifest, found: int | None) -> int | None:
    """Positions for prompt and answer: those of the model minus the virtual tokens of the PEFT method."""
    return None if found is None else found - manifest.recipe.peft.virtual_length
