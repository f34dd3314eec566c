"""What is kept of a run that a scheduler is to start."""

from pathlib import Path

import pytest

from lora_ns.errors import UsageError
from lora_ns.launch.jobs import last_job, make_job, new_job, read_job, write_job
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir


@pytest.fixture
def job(write_recipe, tmp_path):
    loaded = load_recipe(write_recipe(), ['training.output_dir="run"', "training.seed=7"])
    return make_job(loaded, "slurm", "new", {"partition": "low"}, tmp_path)


def test_a_job_keeps_the_recipe_as_it_was_submitted(job, write_recipe):
    folder = new_job(job)
    write_recipe("no recipe at all")
    again = read_job(folder)
    assert again == job
    assert again.recipe().recipe.training.seed == 7
    assert again.recipe(("training.seed=8",)).recipe.training.seed == 8


def test_relative_paths_of_the_recipe_start_where_it_is(job, tmp_path):
    assert job.recipe().path == tmp_path / "recipe.toml"
    assert job.run == str(Path("run").absolute())


def test_jobs_are_numbered_and_the_last_that_was_taken_counts(job):
    first, second, third = (new_job(job) for _ in range(3))
    assert [folder.name for folder in (first, second, third)] == ["1", "2", "3"]
    run = RunDir(Path(job.run))
    assert last_job(run) is None
    taken = job.model_copy(update={"id": "12"})
    write_job(second, taken)
    assert last_job(run) == (second, taken)


def test_a_run_may_begin_where_jobs_are_kept(job):
    new_job(job)
    RunDir(Path(job.run)).check_free(overwrite=False)
    (Path(job.run) / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty and not a run"):
        RunDir(Path(job.run)).check_free(overwrite=False)


@pytest.mark.parametrize("text", [None, "{}", "not json"])
def test_what_is_no_job_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(UsageError, match=r"job\.json: not a job"):
        read_job(tmp_path)


@pytest.mark.parametrize("number", ["--help", "-M evil", "12\n13", "a b", ""])
def test_a_number_that_would_be_an_option_of_the_scheduler_is_refused(job, number):
    folder = new_job(job.model_copy(update={"id": "12_0"}))
    assert read_job(folder).id == "12_0"
    write_job(folder, job.model_copy(update={"id": number}))
    with pytest.raises(UsageError, match="not a job"):
        read_job(folder)
