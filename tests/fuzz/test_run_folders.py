"""Run directories by chance, damaged or a stranger's: each can be used, or is one problem; none of it is executed."""

import contextlib
import io
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from campaign import MOST_SECONDS, ends_well, fuzz, holds_for, lasts, limited
from documents import changed
from flips import Told, finished_and_broken_off
from hypothesis import strategies as st

import lora_ns.services.execute
import lora_ns.services.resume
from lora_ns.answers.opened import load, open_run
from lora_ns.cli.app import _tell
from lora_ns.cli.show import note
from lora_ns.errors import LoransError, Problem
from lora_ns.files.disk import hash_folder
from lora_ns.files.marks import MARK, mark_folder
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise, prepare
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import last_complete_checkpoint
from lora_ns.services import submit

TRAINING = 15.0
"""Seconds of the processor that a step of training may take besides, on a busy machine."""
ESCAPE = "\x1b]0;title\x07"
KEYS = [
    *("status", "version", "checksum", "trust_remote_code", "auto_map", "moved_to", "path", "run_id", "step", "files"),
    *(
        "sha256",
        "global_step",
        "best_model_checkpoint",
        "_data_files",
        "_fingerprint",
        "features",
        "peft_type",
        "dtype",
    ),
    *("megatron_config", "base_model_name_or_path", "auto_mapping", "task_type", "output_dir", "accelerate_config"),
]
TEXTS = [
    *("[" * 100_000, "9" * 10_000, '{"a": ' * 50_000, "\0" * 100, "", "{", "[]", "null", "\ufeff{}", f'"{ESCAPE}"'),
    *(f'{{"{ESCAPE}": "{ESCAPE}"}}', f'{{"version": {"1" * 5000}}}', '{"version": 1}', "1e999", "NaN", "x = 1"),
]
PICKLED = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "training_args.bin",
    "adapter_model.bin",
    "pytorch_model.bin",
)
CODE = ("own.py", "modeling.py", "tokenization_own.py", "configuration.py", "torch.py", "custom_generate/generate.py")
FOREIGN = (
    "config.json",
    "added_tokens.json",
    "vocab.json",
    "model.safetensors",
    "special_tokens_map.json",
    "rank0.error.json",
)
DOCUMENTS = ("manifest.json", "recipe.toml", "metrics.jsonl")
"""Changed more often than one of some forty files is."""


class Touch:
    """What creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


class StepError(LoransError):
    """A step of training is done, and more are not asked for."""


class OneStep(Told):
    """Has a run that goes on end after its first step."""

    def step(self, step, tokens):
        raise StepError(Problem("run", "a step is done"))


class Change:
    """One change to a run: what is drawn, the run, and what must not come to be."""

    def __init__(self, drawn, run, marker, other):
        self.drawn, self.run, self.marker, self.other = drawn, run, marker, other

    def any_file(self, *endings):
        """A file of the run, those at its top as often as all others."""
        files = sorted(file for file in self.run.rglob("*") if file.is_file() and not file.is_symlink())
        files = [file for file in files if not endings or file.suffix in endings]
        named = [file for file in files if file.name in DOCUMENTS]
        return self.drawn.choice(named if named and self.drawn.random() < 0.3 else files)

    def any_folder(self):
        return self.drawn.choice([self.run, *sorted(path for path in self.run.rglob("*") if path.is_dir())])

    def damage(self):
        file = self.any_file()
        content = bytearray(file.read_bytes()) or bytearray(1)
        place, kind = self.drawn.randrange(len(content)), self.drawn.choice(["flip", "cut", "insert", "zero", "empty"])
        if kind == "flip":
            content[place] ^= self.drawn.randrange(1, 256)
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = self.drawn.randbytes(8)
        elif kind == "zero":
            content[place:] = bytes(len(content) - place)
        else:
            content.clear()
        file.write_bytes(content)

    def missing(self):
        path = self.any_file() if self.drawn.random() < 0.7 else self.any_folder()
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def foreign(self):
        shutil.copyfile(self.any_file(), self.any_folder() / self.drawn.choice((*FOREIGN, *PICKLED, "checkpoint-7")))

    def document(self):
        """A value of a document, a stranger's text among them."""
        file = self.any_file(".json")
        document = json.loads(file.read_text())
        for _ in range(self.drawn.choice([1, 1, 2, 4])):
            if isinstance(document, dict):
                document = changed(self.drawn, document, KEYS)
        text = json.dumps(document)
        if self.drawn.random() < 0.2:
            text = text.replace('"x"', json.dumps(ESCAPE))
        file.write_text(text)

    def escape(self):
        """A string of a document that would steer a terminal."""
        file = self.any_file(".json")
        text = file.read_text()
        places = [number for number, piece in enumerate(text) if piece == '"']
        place = self.drawn.choice(places) + 1
        file.write_text(text[:place] + json.dumps(ESCAPE)[1:-1] + text[place:])

    def text(self):
        self.any_file(".json", ".toml", ".jsonl", ".jinja", ".md").write_text(self.drawn.choice(TEXTS))

    def line(self):
        file = self.run / "metrics.jsonl"
        if file.is_file() and not file.is_symlink():
            file.write_text(file.read_text() + self.drawn.choice(TEXTS) + "\n")

    def other_kind(self):
        """Something else in a file's place."""
        file = self.any_file()
        kind = self.drawn.choice(["folder", "pipe", "endless", "outside", "nowhere", "itself"])
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        else:
            target = {"endless": "/dev/zero", "outside": self.other, "nowhere": "/nowhere", "itself": file}[kind]
            file.symlink_to(target)

    def moved_folder(self):
        """A link in a folder's place, or a file."""
        folder = self.drawn.choice(sorted(path for path in self.run.rglob("*") if path.is_dir()))
        moved = self.other.parent / "moved"
        shutil.rmtree(moved, ignore_errors=True)
        folder.rename(moved)
        kind = self.drawn.choice(["link", "file", "up"])
        if kind == "file":
            folder.write_text("x")
        else:
            folder.symlink_to(moved if kind == "link" else self.run)

    def pickled(self):
        import torch

        files = [file for file in sorted(self.run.rglob("*")) if file.name in PICKLED]
        file = self.drawn.choice(files or [self.any_folder() / self.drawn.choice(PICKLED)])
        if self.drawn.random() < 0.3:
            file = self.any_folder() / self.drawn.choice((*PICKLED, "latest"))
        payload = Touch(self.marker)
        torch.save(payload, file) if self.drawn.random() < 0.6 else file.write_bytes(pickle.dumps(payload))

    def code(self):
        """A file of code, and settings that name it."""
        folder, name = self.drawn.choice([self.run, self.run / "adapter"]), self.drawn.choice(CODE)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"import pathlib\npathlib.Path({str(self.marker)!r}).touch()\n")
        maps = {"AutoTokenizer": [None, f"{Path(name).stem}.A"], "AutoConfig": f"{Path(name).stem}.A"}
        for settings in ("tokenizer_config.json", "config.json", "adapter_config.json"):
            file = folder / settings
            table = json.loads(file.read_text()) if file.is_file() else {}
            file.write_text(json.dumps({**table, "auto_map": maps, "tokenizer_class": "A"}))
        if self.drawn.random() < 0.7:
            self.manifest(lambda table: table["recipe"]["model"].update(trust_remote_code=True))

    def manifest(self, change):
        file = self.run / "manifest.json"
        if file.is_file() and not file.is_symlink():
            table = json.loads(file.read_text())
            change(table)
            file.write_text(json.dumps(table))

    def settled(self):
        """What a stranger does who has changed something: marks and the manifest say that it was always so."""
        for folder in [self.run / "data", self.run / "start", *sorted(self.run.glob("checkpoints/checkpoint-*"))]:
            told = json.loads((folder / MARK).read_text()) if (folder / MARK).is_file() else {}
            mark_folder(folder, **{key: value for key, value in told.items() if key not in {"files", "sha256"}})

        def change(table):
            table.pop("checksum", None)
            if table["adapter"]:
                table["adapter"] = hash_folder(self.run / "adapter")

        self.manifest(change)


CHANGES = (
    *(Change.damage, Change.missing, Change.foreign, Change.document, Change.document, Change.document, Change.escape),
    *(Change.text, Change.line, Change.other_kind, Change.other_kind, Change.moved_folder, Change.pickled, Change.code),
)
LAST = (Change.other_kind, Change.moved_folder)
"""What leaves something that the other changes would wait for."""
UNFIT = (LoransError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)
"""What a change may fail with, since the one before may have left nothing to change."""


def use(path, drawn, is_finished):
    """All that looks at a run; raises what it is refused for."""
    observer = OneStep()
    try:
        run = RunDir.open_to_use(path, observer.warn)
        manifest = run.read()
        submit.status(path)
        last_complete_checkpoint(run.checkpoints, manifest.run_id)
        run.reported_failures()
        if drawn.random() < 0.3:
            load_recipe(run.recipe)
        if not is_finished or drawn.random() < 0.1:
            with Noise() as noise:
                lora_ns.services.resume.resume(run, observer, noise, from_start=drawn.random() < 0.3)
            return
        opened = open_run(run)
        if drawn.random() < 0.3:
            load(opened)
    finally:
        check_told(lambda: [note(text) for text in observer.notes])


def check_told(tell):
    """What is printed steers no terminal."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        tell()
    assert not set(map(chr, (*range(9), *range(11, 32), 127))) & set(stream.getvalue())


def told(call):
    """A call, with what its error prints seen to."""
    try:
        call()
    except LoransError as error:
        failure = error
        check_told(lambda: _tell(failure))
        raise


def removed(path):
    """Remove a folder, whatever its files may be."""
    path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    prepare(detect())
    return finished_and_broken_off(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def check(runs, tmp_path, monkeypatch):
    other, marker, run = tmp_path / "other" / "file", tmp_path / "MARKER", tmp_path / "run"
    other.parent.mkdir()
    is_trained, execute = [False], lora_ns.services.execute.execute_here
    monkeypatch.setattr(
        lora_ns.services.resume, "execute_here", lambda *given: execute(*given) if is_trained[0] else None
    )

    def checked(seed):
        drawn = random.Random(seed)
        is_finished, is_trained[0] = drawn.random() < 0.5, drawn.random() < 0.2
        other.write_text("of somebody else\n")
        removed(run)
        shutil.copytree(runs[0 if is_finished else 1].path, run)
        change = Change(drawn, run, marker, other)
        for make in sorted(drawn.choices(CHANGES, k=drawn.choice([1, 1, 1, 2, 3])), key=LAST.__contains__):
            with contextlib.suppress(*UNFIT):
                make(change)
        if drawn.random() < 0.5:
            with contextlib.suppress(*UNFIT):
                change.settled()
        try:
            with limited():
                ends_well(
                    lambda: told(lambda: use(run, drawn, is_finished)), TRAINING if is_trained[0] else MOST_SECONDS
                )
            assert not marker.exists()
            assert other.read_text() == "of somebody else\n"
        finally:
            removed(run)
            removed(other.parent / "moved")
            marker.unlink(missing_ok=True)

    return checked


SEEDS = st.integers(0, 2**31)


def test_a_run_by_chance_can_be_used_or_is_one_problem(check):
    holds_for(SEEDS, check, 25)


@fuzz
def test_runs_by_chance_can_be_used_or_are_one_problem(check):
    lasts(SEEDS, check)
