"""`lorans sweep`: paired trials on one base, which prune, resume and are ranked."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

import lora_ns
from lora_ns.errors import RecipeError, RunError, UsageError
from lora_ns.launch.jobs import SweepWork, make_job, new_job
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.job import work
from lora_ns.services.sweep.bench import Asked, Bench
from lora_ns.services.sweep.result import SweepResult
from lora_ns.services.sweep.run import SweepRequest, sweep
from lora_ns.services.sweep.status import SweepStatus, status_of_sweep
from lora_ns.services.sweep.study import SweepDir

RECIPE = """\
task_name = "short"
task_type = "CAUSAL_LM"

[model]
name_or_path = "lorans:nano"   # small

[peft]
method = "lora"

[dataset]
path = "lorans:quickstart/train.jsonl"
eval_path = "eval.jsonl"
format = "messages"
max_samples = 64

[training]
output_dir = "run"
max_steps = 8
global_batch_size = 4
learning_rate = 3e-3
"""


def _recipe(folder: Path, text: str = RECIPE) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    rows = (Path(lora_ns.__file__).parent / "assets" / "quickstart" / "eval.jsonl").read_text().splitlines(True)
    (folder / "eval.jsonl").write_text("".join(rows[::20]))
    return file


def _sweep(request: SweepRequest, observer: Observer | None = None) -> SweepResult:
    with Noise() as noise:
        return sweep(request, observer or SilentObserver(), noise)


RATES = ("training.learning_rate=1e-4,4e-3,9",)


@pytest.fixture(scope="module")
def request_and_result(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepRequest, SweepResult]:
    folder = tmp_path_factory.mktemp("sweep")
    request = SweepRequest(_recipe(folder), (*RATES, "training.seed=3"), output=folder / "out")
    return request, _sweep(request)


def test_the_best_of_a_list_is_found_and_what_diverges_is_pruned(
    request_and_result: tuple[SweepRequest, SweepResult],
) -> None:
    _, result = request_and_result
    assert result.best is not None
    assert result.best.values == {"training.learning_rate": 4e-3}
    states = {one.values["training.learning_rate"]: one.state for one in result.trials}
    assert states[9] == "diverged"
    assert states[1e-4] in {"finished", "pruned"}
    diverged = next(one for one in result.trials if one.state == "diverged")
    assert diverged.tokens < result.best.tokens
    assert "before the first step" in diverged.reason


def test_the_best_recipe_has_the_values_and_its_comments(
    request_and_result: tuple[SweepRequest, SweepResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request, result = request_and_result
    assert result.best_recipe
    monkeypatch.chdir(tmp_path)
    best = load_recipe(Path(result.best_recipe))
    assert best.recipe.training.learning_rate == 4e-3
    assert best.recipe.training.seed == 3
    assert best.recipe.dataset.eval_path == str(request.recipe.parent / "eval.jsonl")
    assert "# small" in best.text


def test_the_folder_of_a_sweep_has_no_weights_and_a_plot(request_and_result: tuple[SweepRequest, SweepResult]) -> None:
    request, result = request_and_result
    assert request.output is not None
    names = {file.name for file in request.output.rglob("*") if file.is_file()}
    assert {"recipe.toml", "trial.json", "metrics.jsonl", "result.json", "best.toml"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".pt", ".bin"))]
    assert Path(result.plots[0]).read_text().lstrip().startswith("<?xml")


def test_the_same_request_trains_nothing_twice(request_and_result: tuple[SweepRequest, SweepResult]) -> None:
    request, result = request_and_result
    assert _sweep(request) == result
    assert request.output is not None
    assert status_of_sweep(request.output) == SweepStatus(str(request.output), "finished", done=3, trials=3)


def test_a_job_takes_part_with_the_recipe_as_it_was_submitted(
    request_and_result: tuple[SweepRequest, SweepResult], tmp_path: Path
) -> None:
    file = _recipe(tmp_path)
    job = make_job(load_recipe(file), "slurm", "new", {}, tmp_path)
    part = SweepWork(values=(*RATES, "training.seed=3"), trials=3, metric="eval_loss", sampler="grid")
    folder = new_job(job.model_copy(update={"run": str(tmp_path / "out"), "sweep": part}))
    file.write_text("edited = true")
    _, alone = request_and_result
    for _ in ("the first start", "another one, after the last trial"):
        with Noise() as noise:
            result = work(folder, 0, None, SilentObserver(), noise)
        assert isinstance(result, SweepResult)
        assert [(one.values, one.value) for one in result.trials] == [(one.values, one.value) for one in alone.trials]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"metric": "mean_token_accuracy"}, "--metric"),
        ({"sampler": "tpe"}, "--sampler"),
        ({"overrides": (*RATES, "training.seed=4")}, "--set"),
    ],
)
def test_another_request_in_the_same_folder_is_refused(
    request_and_result: tuple[SweepRequest, SweepResult], change: dict[str, object], part: str
) -> None:
    with pytest.raises(UsageError, match=part):
        _sweep(replace(request_and_result[0], **change))


def test_a_trial_whose_process_was_killed_is_repeated(
    request_and_result: tuple[SweepRequest, SweepResult], tmp_path: Path
) -> None:
    """The process of the trial is killed in the middle; the same request goes on, and ends as the whole sweep did."""
    request, whole = request_and_result
    script = (
        "import os, signal, sys; from pathlib import Path; from lora_ns.run.observer import Observer;"
        "from lora_ns.machine.libraries import Noise; from lora_ns.services.sweep.run import *\n"
        "class Killer(Observer):\n"
        "    stages = 0\n"
        "    def stage(self, text): self.stages += text.startswith('trial')\n"
        "    def rows(self, done, total):\n"
        "        if self.stages == 2 and done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with Noise() as noise:\n"
        "    request = SweepRequest(Path(sys.argv[1]), tuple(sys.argv[3:]), output=Path(sys.argv[2]))\n"
        "    sweep(request, Killer(), noise)\n"
    )
    output = tmp_path / "out"
    command = [sys.executable, "-c", script, str(request.recipe), str(output), *request.overrides]
    ended = subprocess.run(command, check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(SweepDir(output).path.glob("trials/*/trial.json"))) == 1
    status = status_of_sweep(output)
    assert status is not None
    assert (status.status, status.done, status.trials) == ("stopped", 1, 3)
    given_up = tmp_path / "given-up"
    shutil.copytree(output, given_up)
    result = _sweep(replace(request, output=output))
    assert [one.values for one in result.trials] == [one.values for one in whole.trials]
    assert [one.loss for one in result.trials] == [one.loss for one in whole.trials]
    limited = _sweep(replace(request, output=given_up, most_attempts=1))
    assert [one.reason for one in limited.trials if one.state == "failed"] == [
        "its process ended 1 times before the trial was done"
    ]
    assert len(limited.trials) == 3


def test_trials_on_one_base_are_those_of_a_base_each(tmp_path: Path) -> None:
    file = _recipe(tmp_path)
    variants = [
        ["peft.lora_r=4"],
        ["peft.method=ia3", "training.learning_rate=1e-2"],
        ["peft.init_lora_weights=pissa"],
        [],
    ]
    bench, alone = Bench(SilentObserver()), []
    with Noise():
        shared = [bench.train(load_recipe(file, each), tmp_path / "trial", Asked()) for each in variants]
        alone = [
            Bench(SilentObserver()).train(load_recipe(file, each), tmp_path / "trial", Asked()) for each in variants
        ]
    assert [one.curve for one in shared] == [one.curve for one in alone]
    assert [one.row_losses for one in shared] == [one.row_losses for one in alone]
    assert bench.loads == 2  # PiSSA has changed the base
    losses = [sum(loss * count for loss, count in one.row_losses) / sum(c for _, c in one.row_losses) for one in shared]
    assert losses == pytest.approx([one.loss for one in shared], rel=1e-5)


def test_the_head_of_a_classifier_starts_anew_in_each_trial(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {number}", "label": word} for number in range(8) for word in ("good", "bad")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("CAUSAL_LM", "SEQ_CLS").replace("lorans:quickstart/train.jsonl", "rows.jsonl")
    text = text.replace("eval.jsonl", "rows.jsonl").replace('format = "messages"\nmax_samples = 64\n', "")
    loaded = load_recipe(_recipe(tmp_path, text), ["training.max_steps=2"])
    bench = Bench(SilentObserver())
    with Noise():
        first, second = (bench.train(loaded, tmp_path / "trial", Asked()) for _ in range(2))
    assert first.row_losses == second.row_losses
    assert first.curve == second.curve
    assert bench.loads == 1


def test_a_refused_trial_is_told_and_the_others_train(tmp_path: Path) -> None:
    request = SweepRequest(
        _recipe(tmp_path), ("training.warmup_steps=0,8", "training.max_steps=4"), output=tmp_path / "o"
    )
    result = _sweep(request)
    assert [one.state for one in result.trials] == ["finished", "refused"]
    assert "warm" in result.trials[1].reason


def test_a_sweep_without_a_result_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no trial"):
        _sweep(SweepRequest(_recipe(tmp_path), ("training.learning_rate=1e3,1e4",), output=tmp_path / "o"))


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("peft.lora_rank=1,2",), "lora_rank"),
        (("peft.lora_r=0,-1",), "lora_r"),
    ],
)
def test_keys_are_checked_before_anything_is_written(tmp_path: Path, overrides: tuple[str, ...], part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        _sweep(SweepRequest(_recipe(tmp_path), overrides, output=tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_rows_to_compare_by_are_needed(tmp_path: Path) -> None:
    file = _recipe(tmp_path, RECIPE.replace('eval_path = "eval.jsonl"\n', ""))
    with pytest.raises(UsageError, match="no evaluation rows"):
        _sweep(SweepRequest(file, RATES, output=tmp_path / "o"))


@pytest.mark.parametrize("metric", ["eval_runtime", "bleu"])
def test_an_unknown_metric_is_refused(tmp_path: Path, metric: str) -> None:
    with pytest.raises(UsageError, match="--metric"):
        _sweep(SweepRequest(_recipe(tmp_path), RATES, metric=metric, output=tmp_path / "o"))


def test_a_metric_that_the_evaluation_lacks_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="eval_loss"):
        _sweep(SweepRequest(_recipe(tmp_path), RATES, metric="accuracy", output=tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_a_metric_that_the_evaluation_lacks_leaves_the_records_of_jobs(tmp_path: Path) -> None:
    file = _recipe(tmp_path)
    job = make_job(load_recipe(file), "slurm", "new", {}, tmp_path)
    part = SweepWork(values=RATES, trials=3, metric="accuracy", sampler="grid")
    folder = new_job(job.model_copy(update={"run": str(tmp_path / "o"), "sweep": part}))
    with pytest.raises(UsageError, match="eval_loss"), Noise() as noise:
        work(folder, 0, None, SilentObserver(), noise)
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["jobs"]
    assert (folder / "job.json").is_file()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("x")
    with pytest.raises(UsageError, match="not a sweep"):
        _sweep(SweepRequest(_recipe(tmp_path), RATES, output=tmp_path / "o"))


@pytest.mark.parametrize("name", ["study.db", "sweep.json"])
def test_a_damaged_file_is_a_message(
    request_and_result: tuple[SweepRequest, SweepResult], tmp_path: Path, name: str
) -> None:
    request, _ = request_and_result
    assert request.output is not None
    shutil.copytree(request.output, tmp_path / "o")
    (tmp_path / "o" / name).write_bytes(b"\x00damaged")
    with pytest.raises(UsageError, match=name):
        _sweep(replace(request, output=tmp_path / "o"))


@pytest.mark.matrix
def test_processes_share_a_sweep(tmp_path: Path) -> None:
    request = SweepRequest(_recipe(tmp_path), RATES, output=tmp_path / "o", processes=2)
    result = _sweep(request)
    assert result.best is not None
    assert result.best.values == {"training.learning_rate": 4e-3}
    assert len(result.trials) == 3


@pytest.mark.matrix
def test_a_planted_rate_is_found_by_twelve_trials(tmp_path: Path) -> None:
    overrides = ("training.learning_rate=log(1e-5,1)", "training.max_steps=16")
    result = _sweep(SweepRequest(_recipe(tmp_path), overrides, trials=12, output=tmp_path / "o"))
    assert result.best is not None
    assert 1e-3 < result.best.values["training.learning_rate"] < 5e-2
    assert any(one.state == "diverged" for one in result.trials)
    assert len(result.trials) == 12
