"""`lorans submit` and `lorans status`, up to the scheduler."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from command_line import lorans

from lora_ns.model.files import packaged

SBATCH = """#!{python}
import os, pathlib, sys
script = pathlib.Path(sys.argv[1])
pathlib.Path("sbatch.script").write_text(script.read_text())
answer = os.environ.get("SBATCH_SAYS")
if answer:
    sys.exit(answer)
print("Submitted batch job 12")
"""
SCONTROL = """#!{python}
print("JobId=12 JobState=PENDING Reason=Priority Restarts=1 NodeList=(null)")
"""


@pytest.fixture
def slurm(tmp_path):
    """A folder with programs that answer as SLURM's do."""
    pytest.importorskip("submitit")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("srun", SCONTROL)):
        (programs / name).write_text(text.format(python=sys.executable))
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def recipe(write_recipe):
    return str(write_recipe())


TO_SLURM = ("--to", "slurm", "--time", "90", "-o", "partition=low", "--set", 'training.output_dir="run"')


def test_a_dry_run_prints_the_script_and_leaves_nothing(recipe):
    pytest.importorskip("submitit")
    done = lorans("submit", recipe, *TO_SLURM, "--dry-run")
    assert done.returncode == 0, done.stderr
    wanted = ("--time=90", "--partition=low", "--requeue", "--nodes=1", "--ntasks-per-node=1", "--open-mode=append")
    assert {f"#SBATCH {option}" for option in wanted} < set(done.stdout.splitlines())
    assert not Path("run").exists()


def test_what_is_submitted_is_what_a_dry_run_prints(recipe, slurm):
    printed = lorans("submit", recipe, *TO_SLURM, "--dry-run").stdout.rstrip()
    done = lorans("submit", recipe, *TO_SLURM, **slurm)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"slurm 12  {Path('run').absolute()}\n"
    submitted = Path("sbatch.script").read_text().rstrip()
    assert submitted == printed.replace(str(Path("run/jobs/N").absolute()), str(Path("run/jobs/1").absolute()))


def test_the_status_of_a_job_that_waits(recipe, slurm):
    lorans("submit", recipe, *TO_SLURM, **slurm)
    told = lorans("status", "run", **slurm).stdout.splitlines()
    assert told[1:] == [
        "status    submitted",
        "job       slurm 12: PENDING (Priority)",
        "restarts  1",
    ]


def test_a_run_is_not_submitted_twice(recipe, slurm):
    lorans("submit", recipe, *TO_SLURM, **slurm)
    done = lorans("submit", recipe, *TO_SLURM, **slurm)
    assert done.returncode == 2
    assert "job 12 of this run is already PENDING (`lorans status" in done.stderr


def test_what_sbatch_refuses_is_told_and_nothing_is_left(recipe, slurm):
    said = "sbatch: error: invalid partition specified: low"
    done = lorans("submit", recipe, *TO_SLURM, **slurm, SBATCH_SAYS=said)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: sbatch: invalid partition specified: low (")
    assert not Path("run").exists()


def test_several_recipes_are_an_array(write_recipe, recipe, slurm, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(Path(recipe).read_text().replace('output_dir = "', 'output_dir = "other-'))
    done = lorans("submit", recipe, str(other), "--to", "slurm", "--time", "90", **slurm)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["12_0", "12_1"]
    assert "#SBATCH --array=0-1%2" in Path("sbatch.script").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "slurm"), "--time: SLURM jobs need a time limit"),
        (("--to", "slurm", "--time", "soon"), "--time: `soon`"),
        (("--to", "ray", "--time", "9"), "--time: Ray jobs have no time limit"),
        (("--to", "ray", "-o", "cpu=1"), "--option: unknown option `cpu` for Ray (one of: `address`"),
        (("--to", "ray", "-o", "cpus-per-node=few"), "--option: `cpus-per-node=few` (write a number"),
        (("--to", "slurm", "--time", "9", "-o", "export=ALL,HF_TOKEN=x1"), "--option: `export` contains a secret"),
        (("--to", "slurm", "--time", "9", "-o", "token=x1"), "--option: `token` contains a secret"),
        (("--to", "slurm", "--time", "9", "-o", "=x"), "--option: `=x` (write `name=value`"),
        ((*TO_SLURM, "--resume", "--overwrite"), "--resume and --overwrite contradict each other"),
        ((*TO_SLURM, "--resume"), "no such run directory"),
        ((*TO_SLURM, "--set", "training.sed=1"), "unknown key"),
    ],
)
def test_what_cannot_be_submitted_is_told(recipe, options, message):
    done = lorans("submit", recipe, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path("run").exists()


def test_two_recipes_have_two_places(recipe):
    done = lorans("submit", recipe, recipe, *TO_SLURM)
    assert done.returncode == 2
    assert "two recipes have this `training.output_dir`" in done.stderr


def test_away_from_a_cluster(recipe, tmp_path):
    pytest.importorskip("submitit")
    done = lorans("submit", recipe, *TO_SLURM, PATH=str(tmp_path))
    assert done.returncode == 3
    assert "`sbatch` not found" in done.stderr
    assert not Path("run").exists()


def test_the_status_of_nothing(tmp_path):
    done = lorans("status", str(tmp_path))
    assert done.returncode == 2
    assert "neither a run nor a job" in done.stderr


def test_nodes_meet_at_the_first_one_that_the_scheduler_gives(recipe):
    pytest.importorskip("submitit")
    done = lorans("submit", recipe, *TO_SLURM, "--nodes", "2", "--set", "distributed.num_processes=1", "--dry-run")
    assert "#SBATCH --nodes=2" in done.stdout, done.stderr


def test_nodes_of_a_file_of_accelerates_meet_there_too(recipe, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "own.yaml").write_text("distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 2\n")
    named = 'distributed={accelerate_config = "own.yaml"}'
    done = lorans("submit", recipe, *TO_SLURM, "--set", named, "--dry-run")
    assert "#SBATCH --nodes=2" in done.stdout, done.stderr


@pytest.mark.parametrize("place", ["recipe", "option", "folder"])
def test_a_line_break_cannot_become_a_line_of_the_script(recipe, tmp_path, monkeypatch, place):
    pytest.importorskip("submitit")
    smuggled = "a\n#SBATCH --account=other\ntouch MARKER\n"
    words = {
        "recipe": ["submit", recipe, *TO_SLURM, "--set", f"training.output_dir={smuggled}"],
        "option": ["submit", recipe, *TO_SLURM, "--option", f"comment={smuggled}"],
        "folder": ["submit", recipe, *TO_SLURM],
    }
    if place == "folder":
        (tmp_path / "a\n#SBATCH --account=other").mkdir()
        monkeypatch.chdir(tmp_path / "a\n#SBATCH --account=other")
    done = lorans(*words[place], "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "control character U+000A" in done.stderr
    assert done.stderr.startswith("error: --option: ") == (place == "option")


def test_a_base_with_code_is_allowed_before_a_job_is_submitted(write_recipe, minimal, slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("LORANS_CONFIG", str(tmp_path / "configuration"))
    base = tmp_path / "base"
    shutil.copytree(packaged("lorans:nano"), base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "auto_map": {"AutoModelForCausalLM": "own.Model"}}))
    (base / "own.py").write_text("raise SystemExit")
    text = minimal.replace('"lorans:nano"', f'"{base}"\ntrust_remote_code = true\nrevision = "{"0123456789" * 4}"')
    words = ["submit", write_recipe(text), *TO_SLURM]
    done = lorans(*words, **slurm)
    assert (done.returncode, Path("run").exists()) == (2, False)
    assert "own.py (digest " in done.stderr
    done = lorans(*words, "--trust-remote-code", **slurm)
    assert done.returncode == 0, done.stderr
    assert "allowed on this machine from now on" in done.stderr


SWEEP = ("--set", "peft.lora_r=4,8,16", "--set", "dataset.eval_path=held.jsonl", "-o", "swept")
JOBS = (*SWEEP, "--to", "slurm", "--jobs", "3", "--time", "90", "--option", "partition=low")


@pytest.fixture
def swept_recipe(recipe, tmp_path):
    pytest.importorskip("optuna")
    for name in ("train.jsonl", "held.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
    return recipe


def test_jobs_share_a_sweep(swept_recipe, slurm):
    dry = lorans("sweep", swept_recipe, *JOBS, "--dry-run")
    assert "#SBATCH --partition=low" in dry.stdout, dry.stderr
    assert not Path("swept").exists()
    done = lorans("sweep", swept_recipe, *JOBS, **slurm)
    place = Path("swept").absolute()
    assert done.stdout.splitlines() == [f"slurm 12_{number}  {place}" for number in range(3)], done.stderr
    assert "#SBATCH --array=0-2%3" in Path("sbatch.script").read_text()
    part = json.loads(Path("swept/jobs/1/job.json").read_text())["sweep"]
    assert part == {
        "values": ["peft.lora_r=4,8,16", "dataset.eval_path=held.jsonl"],
        "trials": 3,
        "metric": "eval_loss",
        "sampler": "grid",
        "use_cache": True,
    }


def test_the_status_of_a_sweep_names_each_of_its_jobs(swept_recipe, slurm):
    lorans("sweep", swept_recipe, *JOBS, **slurm)
    told = lorans("status", "swept", **slurm).stdout.splitlines()
    assert told[1:] == ["status  submitted", "trials  0 of 3"] + [
        f"job     slurm 12_{number}: PENDING (Priority), restarted 1 x" for number in range(3)
    ]
    lorans("sweep", swept_recipe, *JOBS, "--jobs", "1", **slurm)  # more jobs for the same sweep
    found = json.loads(lorans("status", "swept", "--json", **slurm).stdout)
    assert [job["id"] for job in found["jobs"]] == ["12_0", "12_1", "12_2", "12"]
    assert {job["state"]["state"] for job in found["jobs"]} == {"PENDING"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "2"), "--jobs: is for the jobs of a scheduler (add `--to slurm`"),
        (("--option", "partition=low"), "--option: is for the jobs of a scheduler"),
        (("--dry-run",), "--dry-run: is for the jobs of a scheduler"),
        (("--to", "slurm"), "--time: SLURM jobs need a time limit"),
        (("--to", "slurm", "--time", "9", "--parallel", "2"), "--parallel: is for this machine"),
        (("--to", "slurm", "--time", "9", "--worker"), "--worker: is for this machine"),
        (("--to", "slurm", "--time", "9", "--set", "peft.lora_rr=1,2"), "lora_rr"),
        (("--to", "slurm", "--time", "9", "--set", "peft.lora_dropout=2,3"), "lora_dropout"),
        (("--to", "slurm", "--time", "9", "--metric", "bleu"), "--metric"),
        (("--to", "slurm", "--time", "9", "-o", "."), "is not empty and not a sweep"),
    ],
)
def test_a_sweep_that_cannot_be_submitted_is_told_and_leaves_nothing(swept_recipe, slurm, options, message):
    done = lorans("sweep", swept_recipe, *SWEEP, *options, **slurm)
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path("swept").exists()
    assert not Path("sbatch.script").exists()


@pytest.mark.parametrize(
    "change", [("--metric", "mean_token_accuracy"), ("--set", "training.seed=3"), ("--sampler", "random")]
)
def test_jobs_of_another_sweep_are_refused_while_the_first_wait(swept_recipe, slurm, change):
    lorans("sweep", swept_recipe, *JOBS, **slurm)
    done = lorans("sweep", swept_recipe, *JOBS, *change, **slurm)
    assert done.returncode == 2
    assert "job 12_2 is submitted for another sweep with this folder" in done.stderr
    assert len(list(Path("swept/jobs").iterdir())) == 3


def test_the_folder_of_a_run_that_waits_is_refused(swept_recipe, slurm):
    lorans("submit", swept_recipe, *TO_SLURM, **slurm)
    done = lorans("sweep", swept_recipe, *JOBS, "-o", "run", **slurm)
    assert done.returncode == 2
    assert "a run was submitted with this folder" in done.stderr


def test_a_job_of_which_nothing_is_known_does_not_hide_the_others(swept_recipe, slurm):
    lorans("sweep", swept_recipe, *JOBS, **slurm)
    first = Path("swept/jobs/1/job.json")
    first.write_text(first.read_text().replace('"slurm"', '"ray"').replace('"12_0"', '"raysubmit_1"'))
    told = lorans("status", "swept", **slurm).stdout.splitlines()
    assert told[3].startswith("job     ray raysubmit_1: UNKNOWN (")
    assert told[4] == "job     slurm 12_1: PENDING (Priority), restarted 1 x"
    assert "== slurm 12_2 ==" in lorans("status", "swept", "--log", **slurm).stdout


def test_a_sweep_that_sbatch_refuses_leaves_nothing(swept_recipe, slurm):
    done = lorans("sweep", swept_recipe, *JOBS, **slurm, SBATCH_SAYS="sbatch: error: no such partition")
    assert done.returncode == 2
    assert not Path("swept").exists()
