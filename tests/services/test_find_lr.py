"""`lorans find-lr`: it finds a planted rate, at a tenth of a grid's tokens, and writes it into the recipe."""

import math
import random
from pathlib import Path

import pytest

pytest.importorskip("torch")

import lora_ns
from lora_ns.errors import RunError
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.sweep.find_lr import find_lr, with_rate
from lora_ns.services.sweep.search import POWER, Candidate, Search

RUN_STEPS, PRIOR = 1600, 1e-3


def _landscape(best: float, noise: float = 0.0, cliff: float = math.inf):
    """Losses whose best rate for a whole run is `best`, and falls with the steps; above a cliff, nothing is learned."""
    draw = random.Random(1)
    rows = [draw.gauss(0, 1) for _ in range(100)]

    def measure(rate: float, steps: int) -> Candidate:
        own = best * (RUN_STEPS / steps) ** POWER
        if rate > cliff * own:
            return Candidate(rate, steps, None, steps * 10)
        loss = 2 + math.log(rate / own) ** 2 / 4
        each = tuple((loss + row + noise * draw.gauss(0, 1), 1) for row in rows)
        return Candidate(rate, steps, sum(value for value, _ in each) / len(each), steps * 10, each)

    return measure


@pytest.mark.parametrize("times", [0.05, 0.2, 0.7, 1.0, 1.4, 3.0, 8.0])
@pytest.mark.parametrize("cliff", [math.inf, 1.6])
def test_a_planted_rate_is_found_wherever_the_prior_is(times: float, cliff: float) -> None:
    search = Search(PRIOR, RUN_STEPS, _landscape(PRIOR * times, cliff=cliff))
    found, error = search.run()
    assert 1 / 1.5 < math.exp(found) / (PRIOR * times) < 1.5
    assert abs(found - math.log(PRIOR * times)) < 1.96 * error
    assert not search.notes


@pytest.mark.parametrize("times", [0.2, 1.0, 3.0])
def test_the_search_costs_a_tenth_of_a_grid_of_twelve(times: float) -> None:
    search = Search(PRIOR, RUN_STEPS, _landscape(PRIOR * times))
    search.run()
    assert sum(one.steps for one in search.tried) <= 0.1 * 12 * RUN_STEPS


def test_rows_that_differ_widen_the_interval() -> None:
    errors = [Search(PRIOR, RUN_STEPS, _landscape(PRIOR, noise)).run()[1] for noise in (0.0, 2.0)]
    assert errors[1] > errors[0]


def test_a_rate_out_of_reach_is_told() -> None:
    search = Search(PRIOR, RUN_STEPS, _landscape(PRIOR * 1e4))
    search.run()
    assert "further out" in search.notes[0]


def test_candidates_that_all_diverge_are_an_error() -> None:
    with pytest.raises(RunError, match="diverges"):
        Search(PRIOR, RUN_STEPS, lambda rate, steps: Candidate(rate, steps, None, 1)).run()


RECIPE = """\
task_name = "short"
task_type = "CAUSAL_LM"

[model]
name_or_path = "lorans:nano"

[peft]
method = "lora"

[dataset]
path = "lorans:quickstart/train.jsonl"
eval_path = "eval.jsonl"
format = "messages"
max_samples = 64

[training]
output_dir = "run"
max_steps = 4
global_batch_size = 4
learning_rate = 1e-5   # far too low
warmup_ratio = 0.1
"""


def test_the_rate_of_a_recipe_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    rows = (Path(lora_ns.__file__).parent / "assets" / "quickstart" / "eval.jsonl").read_text().splitlines(True)
    (tmp_path / "eval.jsonl").write_text("".join(rows[::20]))
    with Noise() as _:
        found = find_lr(file, (), SilentObserver(), writes=True)
    assert found.current == 1e-5
    assert 1e-3 < found.rate < 5e-2
    assert found.interval.low < found.rate < found.interval.high
    assert file.read_text() == RECIPE.replace("1e-5", str(found.rate))
    assert load_recipe(file).recipe.training.learning_rate == found.rate
    assert len({one.loss for one in found.candidates}) == len(found.candidates)
    assert any("too few" in text for text in found.notes)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "eval.jsonl"}


def test_a_recipe_without_a_rate_gets_one(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.replace("learning_rate = 1e-5   # far too low\n", ""))
    assert "learning_rate = 0.002" in with_rate(load_recipe(file), 2e-3)
