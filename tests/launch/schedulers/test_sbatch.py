"""SLURM's words: times, options, states."""

import pickle

import pytest

from lora_ns.errors import UsageError
from lora_ns.launch.jobs import JobState
from lora_ns.launch.schedulers.ray import check_address
from lora_ns.launch.schedulers.sbatch import check_line, parameters, read_account, read_state
from lora_ns.launch.schedulers.slurm import Work
from lora_ns.launch.schedulers.time_limit import minutes


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 90),
        ("90:00", 90),
        ("0:30", 1),
        ("1:30:00", 90),
        ("1:30:01", 91),
        ("2-0", 2880),
        ("1-2", 1560),
        ("1-2:30", 1590),
        ("1-2:30:30", 1591),
    ],
)
def test_a_time_is_read_as_sbatch_reads_it(time, expected):
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["", "an hour", "1h", "0", "0:00:00", "1-", ":30", "1:2:3:4"])
def test_what_is_no_time_is_refused(time):
    with pytest.raises(UsageError, match="--time: `"):
        minutes(time)


KNOWN = {"partition": None, "cpus_per_task": None, "gpus_per_node": None, "setup": None, "srun_args": None}


def test_options_go_where_submitit_has_them():
    found = parameters({"partition": "gpu", "gpus-per-node": "8", "mem-bind": "local", "exclusive": ""}, KNOWN)
    assert found == {
        "partition": "gpu",
        "gpus_per_node": 8,
        "additional_parameters": {"requeue": True, "mem-bind": "local", "exclusive": True},
    }


def test_srun_is_told_the_cores_of_a_task():
    assert parameters({"cpus-per-task": "4"}, KNOWN)["srun_args"] == ["--cpus-per-task=4"]


@pytest.mark.parametrize(
    "option", ["nodes", "ntasks", "ntasks-per-node", "time", "array", "output", "signal", "--error"]
)
def test_what_lorans_sets_is_refused(option):
    with pytest.raises(UsageError, match="is set by lorans"):
        parameters({option: "1"}, KNOWN)


def test_submitits_own_keys_are_no_options_of_sbatch():
    assert parameters({"setup": "module load"}, KNOWN)["additional_parameters"]["setup"] == "module load"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            "JobId=7 JobName=x JobState=RUNNING Reason=None Restarts=2 NodeList=a[1-2] Command=(null)",
            JobState("RUNNING", "", "a[1-2]", 2, is_over=False),
        ),
        ("JobId=7 JobState=PENDING Reason=BeginTime NodeList=(null)", JobState("PENDING", "BeginTime")),
        (
            "JobId=7 JobState=TIMEOUT Reason=TimeLimit NodeList=a",
            JobState("TIMEOUT", "TimeLimit", "a", is_over=True),
        ),
        ("JobId=7 JobState=CANCELLED Reason=None NodeList=a", JobState("CANCELLED", "", "a", is_over=True)),
    ],
)
def test_a_state_is_read_from_scontrol(told, expected):
    assert read_state(told) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("COMPLETED|a1\n", JobState("COMPLETED", nodes="a1", is_over=True)),
        ("CANCELLED by 0|None assigned\n", JobState("CANCELLED", is_over=True)),
        ("PENDING|None assigned", JobState("PENDING")),
        ("", None),
    ],
)
def test_a_state_is_read_from_sacct(told, expected):
    assert read_account(told) == expected


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028", "\u202e"])
def test_nothing_of_a_script_can_be_two_lines(character):
    with pytest.raises(UsageError, match=f"U\\+{ord(character):04X}"):
        check_line(f"/runs/a{character}#SBATCH --account=other")
    for option in ({"partition": f"a{character}touch b"}, {f"qos{character}touch b": "a"}):
        with pytest.raises(UsageError, match="which is not allowed in a job script"):
            parameters(option, {})
    check_line("/runs/a b;$(c)")


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "https://ray.example.org/jobs", "10.0.0.1:8265", "auto"])
def test_an_address_of_ray_is_a_machine(address):
    check_address({"address": address})


@pytest.mark.parametrize("address", ["evil://a", "os.path://10.0.0.1", "http://a b", "http://a\n", "", "-x"])
def test_an_address_by_which_ray_would_import_a_module_is_refused(address):
    with pytest.raises(UsageError, match="is not a cluster address"):
        check_address({"address": address})


def test_a_job_that_an_earlier_version_has_queued_finds_its_work():
    assert pickle.loads(b"clora_ns.services.on_slurm\nWork\n.") is Work
