"""The light commands never import a heavy library, and no module imports one at its top."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_folders import write_adapter
from minimal_recipe import MINIMAL
from reported_runs import write_reported_run
from run_folders import rows, write_run

import lora_ns
from lora_ns.files.digests import digests_of
from lora_ns.run.lineage import Chain

HEAVY = {
    *("accelerate", "bitsandbytes", "datasets", "deepspeed", "huggingface_hub", "peft"),
    *("sklearn", "torch", "transformers", "trl"),
}
PACKAGE = Path(lora_ns.__file__).parent
AXOLOTL = """\
{base_model: a, adapter: lora, lora_r: 8, lora_alpha: 8, learning_rate: 1e-4, sequence_len: 64, output_dir: out,
lora_target_linear: true, datasets: [{path: rows.jsonl, type: completion}]}
"""


COMMANDS = [
    *(["--help"], ["init", "new"], ["init", "other", "--data", "train.jsonl"], ["schema"], ["import", "axolotl.yaml"]),
    *([command, recipe] for command in ("validate", "plan") for recipe in ("recipe.toml", "hub.toml")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_light_command_imports_nothing_heavy(write_recipe, command):
    recipe = write_recipe(MINIMAL + "\n[sft]\nmax_seq_length = 128\n")
    (recipe.parent / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    hub = MINIMAL.replace("lorans:nano", "owner/base").replace('path = "train.jsonl"', 'name = "owner/rows"')
    (recipe.parent / "hub.toml").write_text(hub)
    (recipe.parent / "axolotl.yaml").write_text(AXOLOTL)
    imported = imported_by(*command)
    assert not imported & HEAVY
    assert "typer" in imported


@pytest.mark.parametrize("command", ["check FOLDER", "inspect FOLDER", "diff FOLDER FOLDER"])
def test_the_commands_about_adapter_folders_import_nothing_heavy(tmp_path, command):
    pytest.importorskip("numpy")
    folder = str(write_adapter(tmp_path))
    imported = imported_by("adapter", *command.replace("FOLDER", folder).split())
    assert not imported & {*HEAVY, "safetensors"}
    assert "numpy" in imported


def test_the_report_of_a_run_imports_nothing_heavy(tmp_path):
    pytest.importorskip("matplotlib")
    run = write_reported_run(tmp_path)
    assert not imported_by("report", str(run.path)) & {*HEAVY, "scipy", "safetensors"}


@pytest.mark.parametrize("command", ["runs FOLDER", "watch FOLDER/one", "diff FOLDER/one FOLDER/two"])
def test_the_commands_that_look_at_runs_import_nothing_heavy(tmp_path, command):
    for name in ("one", "two"):
        write_run(tmp_path / name, logged=rows(3))
    imported = imported_by(*command.replace("FOLDER", str(tmp_path)).split())
    assert not imported & {*HEAVY, "matplotlib", "numpy", "starlette", "uvicorn"}


@pytest.mark.parametrize("command", ["--help", "train --help", "runs FOLDER", "watch FOLDER/one", "verify FOLDER/made"])
def test_a_command_that_reads_no_recipe_imports_no_model_of_one(tmp_path, command):
    write_run(tmp_path / "one", logged=rows(3))
    write_lineage(tmp_path / "made")
    modules = modules_imported_by(*command.replace("FOLDER", str(tmp_path)).split())
    assert not {"lora_ns.recipe.recipe", "lora_ns.run.manifest"} & modules  # most of a second


def test_verify_hashes_files_and_imports_nothing_heavy(tmp_path):
    write_lineage(tmp_path)
    imported = imported_by("verify", str(tmp_path))
    assert not imported & {*HEAVY, "numpy", "safetensors"}


def test_checking_rows_imports_the_tokenizers_of_transformers_and_no_torch(write_recipe):
    """The libraries' noise is hidden, with it what `-X importtime` prints: the process itself lists its modules."""
    pytest.importorskip("transformers")
    recipe = write_recipe(MINIMAL + "\n[sft]\nmax_seq_length = 128\n")
    rows = ({"prompt": f"What is {n} + 1?", "completion": f"{n + 1}"} for n in range(20))
    (recipe.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-c", LISTING, "validate", "recipe.toml", "--data"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout.startswith("format  prompt-completion")
    modules = {module.split(".")[0] for module in done.stderr.splitlines()}
    assert modules & HEAVY == {"huggingface_hub", "transformers"}
    assert not modules & {"pandas", "scipy", "matplotlib", "pyarrow", "sympy"}


LISTING = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, sep="\\n", file=sys.stderr))
from lora_ns.cli.app import main
main()
"""


def write_lineage(folder):
    lineage = Chain().having("base", {}, ()).having("adapter", digests_of({}), ()).having("manifest", {}, ())
    folder.mkdir(exist_ok=True)
    (folder / "lineage.json").write_text(lineage.text())


def imported_by(*command):
    """The packages that a command imports, which has to succeed."""
    return {module.split(".")[0] for module in modules_imported_by(*command)}


def modules_imported_by(*command):
    """The modules that a command imports, which has to succeed."""
    run = [sys.executable, "-X", "importtime", "-m", "lora_ns", *command]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "0"})
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_inside_functions(file):
    top = [node for node in ast.parse(file.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    assert not {name.split(".")[0] for name in names} & HEAVY
