"""Every cell of the table of methods either trains, moves only its own, reloads elsewhere and merges, or is refused."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("torch")

import answering
import matrix
import torch
import transformers
from matrix import BASES, RECIPES, ROWS, WAYS, Outcome
from trap_runs import run

from lora_ns.errors import PlanError, RecipeError
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import prepare
from lora_ns.model.load import difference
from lora_ns.run.observer import SilentObserver
from lora_ns.services.merge import merge
from lora_ns.training.seal import TOLERANCE

CLOSE = {"fp32": 1e-4, "bf16": 3e-2, "nf4": 1e-3, "int8": 5e-3}
"""How far loss and gradient of the first step may be from those of the plain way, relatively."""
ROUNDED = {"fp32": 1e-5, "bf16": 3e-2, "nf4": 1e-2, "int8": 3e-2}
"""How far the merged model may be from the one that was trained, which rounds where the merged one does not."""
MODELS = {
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
}
DRAWN = 0.2
"""The same of a method that draws numbers in each step."""


class Elsewhere:
    """The other process."""

    def __init__(self, said):
        self._said = said  # not a pipe: nobody empties it meanwhile
        self._process = subprocess.Popen(
            [sys.executable, "-u", answering.__file__, str(torch.get_num_threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def answer(self, run, folder):
        """What a saved run answers there."""
        out = folder / "answer.pt"
        self._process.stdin.write(f"{run.path.absolute()}\t{out}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == "answered\n":
                return torch.load(out)
        self._said.seek(0)
        raise AssertionError(self._said.read()[-2000:])

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def elsewhere():
    prepare(detect())  # which sets the number of threads, as every run does
    with tempfile.TemporaryFile("w+") as said:
        process = Elsewhere(said)
        yield process
        process.close()


@pytest.fixture(scope="session")
def folder_of_task(tmp_path_factory):
    """A function to the folder of a task with its base and rows, which many runs are made in."""
    folders = {}

    def folder_of(task):
        if task not in folders:
            folders[task] = tmp_path_factory.mktemp(task)
            matrix.write_task(folders[task], task)
        return folders[task]

    return folder_of


class Watched(SilentObserver):
    """Trainings in one folder: what was frozen, what moved, what was answered at the end."""

    def __init__(self, folder, elsewhere, tmp_path):
        self._folder, self._elsewhere, self._scratch = folder, elsewhere, tmp_path

    def train(self, task, row, base, way):
        """Train a cell and look at it from all sides; its outcome, and what its first step was like."""
        name = f"training.output_dir={self._scratch / way}"
        overrides = (*ROWS[row], *BASES[base], *WAYS[way], name)
        self._dtype = "bfloat16" if base == "bf16" else "float32"
        try:
            found = run(self._folder, *overrides, text=RECIPES[task], observer=self)
        except (RecipeError, PlanError) as error:
            return Outcome(row, task, base, way, refused=self._refusal(error, way)), None
        self._check_saved(found)
        merged = self._merge(found, task, base) if way == "plain" and task in MODELS else ""
        return Outcome(row, task, base, way, merged=merged), self._first_step(found)

    def adapted(self, model):
        self._begun = {name: value.detach().clone() for name, value in model.named_parameters()}

    def saving(self, model, tokenizer):
        moved = set()
        for name, value in model.named_parameters():
            if name in self._begun and not torch.equal(value, self._begun[name]):  # TRL adds a reference to some
                moved.add(name)
        self.moved = moved
        self.trained = {name for name, value in model.named_parameters() if value.requires_grad}
        self._tokenizer = tokenizer
        self._answered = answering.answer(model, tokenizer, self._dtype)

    def _refusal(self, error, way):
        """The reason, which comes before there is anything to throw away."""
        assert not (self._scratch / way).exists()
        return "; ".join(problem.what for problem in error.problems)

    def _check_saved(self, found):
        method = found.read().recipe.peft
        moves_base = getattr(method, "moves_base", False)
        assert self.moved
        assert moves_base or self.moved <= self.trained
        # AdaLoRA leaves out ranks that are cut, and p-tuning what makes its virtual tokens: that is rounded otherwise.
        exact = method.method not in {"adalora", "p-tuning"} and not moves_base
        bound = 0 if exact else TOLERANCE[self._dtype]
        assert difference(self._elsewhere.answer(found, self._scratch), self._answered) <= bound

    def _merge(self, found, task, base):
        method = found.read().recipe.peft
        if method.capabilities.merge is not True:
            return f"no merge: {method.capabilities.merge}"
        folder = self._scratch / "merged"
        assert merge(found, folder).largest_difference < 1e-4
        model = MODELS[task].from_pretrained(folder)
        answered = answering.answer(model, self._tokenizer, "float32")
        if base == "bf16":  # where one product in a thousand may be far off
            assert (answered - self._answered).abs().mean() <= ROUNDED[base] * self._answered.abs().max()
        else:
            assert difference(answered, self._answered) <= ROUNDED[base]
        return "yes"

    def _first_step(self, found):
        rows = [json.loads(line) for line in found.metrics.read_text().splitlines()]
        first = next(row for row in rows if "grad_norm" in row)
        evaluated = next(row for row in rows if "eval_loss" in row)
        return {"loss": first["loss"], "grad_norm": first["grad_norm"], "eval_loss": evaluated["eval_loss"]}


@pytest.fixture
def check_group(folder_of_task, elsewhere, tmp_path):
    """Run a group's cells, hold them against one another, and note what became of them."""

    def check(row, task, base):
        watched = Watched(folder_of_task(task), elsewhere, tmp_path)
        outcomes, first = {}, {}
        for way in matrix.ways_of(task):
            outcomes[way], first[way] = watched.train(task, row, base, way)
            if first[way]:
                bound = DRAWN if row == "pvera" else CLOSE[base]
                # What CorDA starts from goes by rows, and packed ones are others.
                seen = ("loss", "eval_loss") if "corda" in row and way == "packing" else tuple(first[way])
                plain = pytest.approx({name: first["plain"][name] for name in seen}, rel=bound, abs=bound)
                assert {name: first[way][name] for name in seen} == plain, way
        return outcomes

    return check


@pytest.mark.filterwarnings("default:::peft")  # what a method does not do on a type of base, its outcome says
@pytest.mark.matrix
@pytest.mark.parametrize(("row", "task", "base"), [*matrix.groups(), *matrix.objective_groups()])
def test_every_cell_works_or_is_refused(check_group, row, task, base):
    for outcome in check_group(row, task, base).values():
        if path := os.environ.get("MATRIX_OUTCOMES"):
            matrix.write_outcome(Path(path), outcome)


@pytest.fixture(scope="session")
def page():
    return matrix.read_page((Path(__file__).parents[2] / "docs/matrix.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("row", "task", "base"), matrix.sample())
def test_a_cell_of_each_row_and_column_is_what_the_page_says(check_group, page, row, task, base):
    assert matrix.marks(check_group(row, task, base)) == page[row, task, base]


@pytest.mark.filterwarnings("default:::peft")
@pytest.mark.parametrize(("row", "task", "base"), matrix.objective_sample())
def test_a_cell_of_each_objective_is_what_the_page_says(check_group, page, row, task, base):
    refused = check_group(row, task, base)["plain"].refused
    assert page[row, task, base] == ("-" if refused else matrix.LETTERS_OF_BASES[base])


def test_the_page_has_every_group_once(page):
    assert list(page) == [*matrix.groups(), *matrix.objective_groups()]
