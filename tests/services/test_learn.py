"""`validate --learn`: healthy recipes are certified, and planted defects get their names."""

import json
import signal
import tempfile
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from lessons import HEALTHY, PAIRS, PLANTED, RECIPE, certify, name_of, without_gradients
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import InterruptedRunError, UsageError
from lora_ns.objectives import OBJECTIVES
from lora_ns.services.learn import trial
from lora_ns.services.learn.learn import COVERS, check_covered

QUICK = ("end token masked as pad", "other template at inference", "no gradients", "nano, LoRA, ChatML")
"""Cases outside the matrix."""


def cases(table):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in table]


@pytest.mark.parametrize("name", cases(PLANTED))
def test_a_planted_defect_gets_its_name(tmp_path, name):
    assert name_of(tmp_path, PLANTED[name]) == PLANTED[name].code


@pytest.mark.parametrize("name", cases(HEALTHY))
def test_a_healthy_recipe_is_certified(tmp_path, name):
    found = certify(tmp_path, HEALTHY[name])
    assert (found.passed, found.cause) == (True, None)
    assert found.trial.right == len(found.rows) == 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A healthy recipe with its rows in the current folder, and an empty folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_refusal_is_json_and_exit_code_1_and_leaves_nothing(folder, monkeypatch):
    without_gradients(monkeypatch)
    before = left(folder)
    done = CliRunner().invoke(app, ["validate", "recipe.toml", "--learn", "--json"])
    found = json.loads(done.stdout[done.stdout.index("{") :])  # libraries imported for the first time may write before
    assert (done.exit_code, found["ok"], found["problems"]) == (1, False, [])
    assert (found["learn"]["passed"], found["learn"]["cause"]["code"]) == (False, "frozen")
    assert left(folder) == before


def test_a_signal_ends_the_trial_without_a_promise_to_resume_it(folder, monkeypatch):
    train = trial.train

    def stopped(loaded, observer, *arguments, **more):
        observer.rows = lambda *_: signal.raise_signal(signal.SIGINT)
        return train(loaded, observer, *arguments, **more)

    monkeypatch.setattr(trial, "train", stopped)
    before = left(folder)
    with pytest.raises(InterruptedRunError) as caught:
        certify(folder, HEALTHY["nano, LoRA, ChatML"])
    assert str(caught.value) == "--learn: stopped before the verdict; nothing was kept (repeat the command)"
    assert [name for name in left(folder) if name != "template.jinja"] == before


def test_a_fault_of_the_rows_is_named_where_the_user_wrote_it(folder):
    (folder / "recipe.toml").write_text(RECIPE.replace("max_seq_length = 128", "max_seq_length = 8"))
    done = CliRunner().invoke(app, ["validate", "recipe.toml", "--learn", "--json"])
    problem = json.loads(done.stdout)["problems"][0]
    assert done.exit_code == 2
    assert problem["where"].startswith("recipe.toml:")


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in COVERS])
def test_an_objective_without_one_right_answer_is_refused_by_its_name(name):
    objective = OBJECTIVES[name].model_construct()
    with pytest.raises(UsageError, match=rf"not `\[{objective.toml}\]`.*use `--step`"):
        check_covered(SimpleNamespace(recipe=SimpleNamespace(objective=objective)))
