"""Random damage to files of an interrupted and of a finished run: it must be reported or harmless, never used.

`python tests/support/flips.py COUNT SEED [--first NUMBER]` damages a file COUNT times, prints each outcome, and fails
if one is neither. Seed and number determine the damage, so a long series can be split into parts.
"""

from __future__ import annotations

import argparse
import functools
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from services_recipes import RECIPE, run_recipe

from lora_ns.answers.opened import load, open_run
from lora_ns.errors import LoransError
from lora_ns.files.disk import hash_folder
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise, prepare
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.generation import Generation
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.infer import as_row, infer
from lora_ns.services.merge import merge
from lora_ns.services.resume import resume

FOREIGN = ("model.safetensors", "pytorch_model.bin", "added_tokens.json", "config.json", "chat_template.jinja", "a.md")
KINDS = ("flip", "cut", "zeros", "missing", "foreign")


def damage(folder: Path, draw: random.Random) -> tuple[str, Path]:
    """Damage a file of a folder, and return the kind of damage and the file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    file, kind = draw.choice(files), draw.choice(KINDS)
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    if kind == "foreign":
        file = file.with_name(draw.choice(FOREIGN))
        kind = "another" if file.exists() else kind
        file.write_bytes(bytes(content[:place]))
    elif kind == "missing":
        file.unlink()
    elif kind == "flip":
        content[place] ^= draw.randrange(1, 256)
        file.write_bytes(content)
    else:
        file.write_bytes(content[:place] if kind == "cut" else bytes(len(content)))
    return kind, file


def finished_and_broken_off(folder: Path) -> tuple[RunDir, RunDir]:
    """A finished run, and a copy of it in its state before the last step."""
    text = RECIPE.replace("max_steps = 6", "max_steps = 4").replace("max_samples = 64", "max_samples = 32")
    overrides = ("training.save_steps=1", "training.save_total_limit=3", 'peft.init_lora_weights="pissa"')
    finished = run_recipe(folder, text, *overrides)
    broken_off = RunDir(folder / "broken-off")
    shutil.copytree(finished.path, broken_off.path)
    shutil.rmtree(broken_off.adapter)
    shutil.rmtree(broken_off.checkpoints / "checkpoint-4")
    broken_off.update(status="interrupted", adapter={}, seal=None)
    return finished, broken_off


class Told(SilentObserver):
    """An observer that keeps warnings."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.notes.append(text)


@dataclass
class Damages:
    """An interrupted run, the same run finished, and the expected results of both."""

    folder: Path
    tell: Callable[[str], None] = lambda _: None
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.finished, self.broken_off = finished_and_broken_off(self.folder)
        self.adapter = self.finished.read().adapter[WEIGHTS]
        self.answers = answers(self.finished)

    @functools.cached_property
    def merged(self) -> dict[str, str]:
        """The files of the merged model."""
        merge(self.finished, self.folder / "merged")
        return hash_folder(self.folder / "merged")

    def one(self, number: int, seed: int) -> None:
        """Damage a copy of one of the runs, use it, and record the outcome."""
        draw = random.Random(f"{seed}:{number}")
        is_finished = draw.random() < 0.5
        began = time.monotonic()
        run = RunDir(self.folder / "damaged" / "run")
        shutil.copytree((self.finished if is_finished else self.broken_off).path, run.path)
        kind, file = damage(run.path, draw)
        use = self._used if is_finished else self._resumed
        where = f"{'finished' if is_finished else 'broken off'}: {kind} {file.relative_to(run.path)}"
        outcome = self._note(where, file, lambda: use(run))
        self.tell(f"{number} {time.monotonic() - began:.1f} s {where}: {outcome.partition(chr(10))[0]}")
        shutil.rmtree(self.folder / "damaged")

    def _note(self, where: str, file: Path, use: Callable[[], str]) -> str:
        try:
            outcome = use()
        except LoransError as error:
            outcome = "named" if file.name in str(error) or file.parent.name in str(error) else f"not named: {error}"
        except Exception:
            outcome = f"traceback: {traceback.format_exc()}"
        self.seen[outcome.partition(":")[0]] += 1
        if outcome not in {"named", "harmless"}:
            self.wrong.append(f"{where}: {outcome}")
        return outcome

    def _resumed(self, run: RunDir) -> str:
        observer = Told()
        with Noise() as noise:
            resume(RunDir.open(run.path), observer, noise)
        return "harmless" if run.read().adapter[WEIGHTS] == self.adapter else f"another adapter: {observer.notes}"

    def _used(self, run: RunDir) -> str:
        if answers(run) != self.answers:
            return "other answers"
        output = run.path.with_name("merged")
        merge(run, output)
        return "harmless" if hash_folder(output) == self.merged else "another model"


def answers(run: RunDir) -> object:
    """The answers of a run to two prompts."""
    opened = load(open_run(RunDir.open(run.path)))
    rows = [as_row(opened, text) for text in ("Spell plum backwards.", "What is 3 plus 4?")]
    return infer(opened, rows, Generation(max_new_tokens=8)).rows


def damaged(folder: Path, numbers: Iterable[int], seed: int, tell: Callable[[str], None] = lambda _: None) -> Damages:
    """Damage two runs once for each number."""
    damages = Damages(folder, tell)
    for number in numbers:
        damages.one(number, seed)
    return damages


def main(count: int, seed: int, first: int) -> int:
    """Damage `count` times, and return 1 if damage was used silently or ended in a traceback."""
    prepare(detect())
    with tempfile.TemporaryDirectory() as folder:
        found = damaged(Path(folder), range(first, first + count), seed, _tell)
    sys.stdout.write("\n".join([str(dict(found.seen)), *found.wrong]) + "\n")
    return 1 if found.wrong else 0


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="number of damaged copies")
    parser.add_argument("seed", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first number")
    asked = parser.parse_args()
    sys.exit(main(asked.count, asked.seed, asked.first))
