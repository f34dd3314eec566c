"""Accelerate's configuration files against the installed accelerate, those of TRL, and a run that outlives one."""

import importlib
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, resumed
from strategies import offered, prepared
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import RecipeError
from lora_ns.recipe import accelerate_file as acceleratefile
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir

CONFIGS = sorted((Path(__file__).parents[2] / "recipes/distributed/configs").glob("*.yaml"))
OF_TRL = {
    "single_gpu": "none",
    "multi_gpu": "ddp",
    "zero1": "deepspeed",
    "zero2": "deepspeed",
    "zero3": "deepspeed",
    "fsdp2": "fsdp",
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_presets_that_are_shipped(path):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    kind = {"multi_gpu": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert found.distributed_type == kind
    assert found.num_processes == -1  # accelerate asks for `--num_processes`, and here it is one for each GPU


def test_every_key_that_accelerate_has_is_known():
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    top = {*acceleratefile._TOP, *acceleratefile._COUNTS, "distributed_type"}
    assert set(ClusterConfig.__dataclass_fields__) <= top
    groups = {group.title: group for group in launch_command_parser()._action_groups}
    for title, rules in (("FSDP Arguments", acceleratefile._FSDP), ("DeepSpeed Arguments", acceleratefile._DEEPSPEED)):
        assert {action.dest for action in groups[title]._group_actions} == set(rules)


@pytest.mark.parametrize("file", list((files("trl") / "accelerate_configs").iterdir()), ids=lambda file: file.stem)
def test_the_files_of_trl_are_joined_or_told_what_to_write(write_recipe, minimal, file):
    path = write_recipe(f'{minimal}\n[distributed]\naccelerate_config = "{file}"\n')
    if file.stem == "fsdp1":
        with pytest.raises(
            RecipeError, match=r"fsdp_version: 1` is not supported \(write 2, or let `accelerate to-fsdp2`"
        ):
            load_recipe(path)
        return
    found = load_recipe(path).recipe
    assert (found.distributed.strategy, found.model.dtype) == (OF_TRL[file.stem], "bfloat16")


def prepare_without_file(folder):
    """A run whose file is gone, up to the point where its two processes would be started."""
    if "zero2" in offered():
        importlib.import_module("deepspeed")  # which logs to what is standard output when it is first imported
    folder.mkdir()
    file = folder / "own.yaml"
    file.write_text("distributed_type: MULTI_GPU\nuse_cpu: true\nnum_processes: 2\n")
    (folder / "recipe.toml").write_text(f'{RECIPE}\n[distributed]\naccelerate_config = "own.yaml"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        launched = CliRunner().invoke(app, ["launch-command", "recipe.toml"])
        assert "--nproc_per_node 2" in launched.stdout
        file.unlink()
        assert CliRunner().invoke(app, ["launch-command", "run"]).stdout == launched.stdout
        return prepared(lambda: resumed(RunDir.open(folder / "run")))


def check_finished(run, folder):
    """Two processes have trained it, as `test_strategies` lets them."""
    manifest = run.read()
    assert (manifest.status, manifest.distributed.world_size) == ("finished", 2)
