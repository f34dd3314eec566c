"""A stranger's run or base with code in it: nothing runs without the user's consent, in whatever place it hides."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import lorans
from services_recipes import RECIPE
from transformers import dynamic_module_utils

from lora_ns.basemodel import packaged
from lora_ns.rundir import RunDir

CODE = """\
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast): ...
def generate(model, *arguments, **more): ...
"""
COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def _configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORANS_CONFIG", str(tmp_path / "configuration"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that smuggled code would create."""
    return tmp_path / "MARKER"


def changed(file: Path, **settings: object) -> None:
    table = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**table, **settings}))


def changed_manifest(run: Path, *keys: str, value: object) -> None:
    file = run / "manifest.json"
    table = json.loads(file.read_text())
    owner = table
    for key in keys[:-1]:
        owner = owner[key]
    owner[keys[-1]] = value
    file.write_text(json.dumps(table))


def with_code(base: Path, marker: Path) -> None:
    """Let a copy of the embedded base need code of its own."""
    (base / "own.py").write_text(CODE.format(marker=str(marker)))
    maps = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    changed(base / "config.json", model_type="own", architectures=["OwnModel"], auto_map=maps)


def trusting(run: Path) -> None:
    """What a stranger can say in a manifest of its own."""
    changed_manifest(run, "recipe", "model", "trust_remote_code", value=True)
    changed_manifest(run, "recipe", "model", "revision", value=COMMIT)


def with_own_tokenizer(run: Path, marker: Path, reference: str = "own.OwnTokenizer") -> None:
    (run / "adapter" / "own.py").write_text(CODE.format(marker=str(marker)))
    tokenizer = run / "adapter" / "tokenizer_config.json"
    changed(tokenizer, tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, reference]})


def with_own_base(run: Path, marker: Path) -> Path:
    base = run / "base"
    shutil.copytree(packaged("lorans:nano"), base)
    with_code(base, marker)
    changed_manifest(run, "base", "path", value=str(base))
    changed_manifest(run, "base", "name", value=str(base))
    return base


def plant_tokenizer(run: Path, marker: Path) -> None:
    with_own_tokenizer(run, marker)
    trusting(run)


def plant_tokenizer_unsaid(run: Path, marker: Path) -> None:
    with_own_tokenizer(run, marker)


def plant_base(run: Path, marker: Path) -> None:
    with_own_base(run, marker)
    trusting(run)


def plant_generate(run: Path, marker: Path) -> None:
    base = with_own_base(run, marker)
    shutil.copyfile(packaged("lorans:nano/config.json"), base / "config.json")
    (base / "custom_generate").mkdir()
    shutil.move(base / "own.py", base / "custom_generate" / "generate.py")
    trusting(run)


def plant_absolute_reference(run: Path, marker: Path) -> None:
    with_own_tokenizer(run, marker, f"{(run / 'adapter' / 'own').absolute()}.OwnTokenizer")
    trusting(run)


def plant_local_repository(run: Path, marker: Path) -> None:
    folder = Path("here/evil")
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    with_own_tokenizer(run, marker, "here/evil--own.OwnTokenizer")
    trusting(run)


def plant_kernel(run: Path, marker: Path) -> None:
    changed_manifest(run, "plan", "attn_implementation", "value", value="evil/kernel")


def plant_kernel_in_base(run: Path, marker: Path) -> None:
    base = with_own_base(run, marker)
    shutil.copyfile(packaged("lorans:nano/config.json"), base / "config.json")
    changed(base / "config.json", text_config={"_attn_implementation": "evil/kernel"})


UNASKED = "needs code of its own to be run, and the recipe does not ask for that"
REFUSED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "code beside the tokenizer": (plant_tokenizer, "own.py (digest "),
    "code beside the tokenizer, which nothing asks for": (plant_tokenizer_unsaid, UNASKED),
    "code in a base in the run": (plant_base, "own.py (digest "),
    "a generate of the base's own": (plant_generate, "custom_generate/generate.py (digest "),
    "a reference to any file": (plant_absolute_reference, "models do not bring code in this way"),
    "a reference to a folder here": (plant_local_repository, "models do not bring code in this way"),
    "a kernel of another repository": (plant_kernel, "asks for the attention kernel `evil/kernel`"),
    "a kernel that the base asks for": (plant_kernel_in_base, "asks for the attention kernel `evil/kernel`"),
}
"""Ways to smuggle code that are refused, and what is said."""


@pytest.fixture
def copied(lora_run: RunDir, tmp_path: Path) -> Path:
    shutil.copytree(lora_run.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = packaged("lorans:quickstart/eval.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:2]))
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(("plant", "told"), REFUSED.values(), ids=REFUSED)
def test_code_of_a_run_is_refused_and_not_run(copied: Path, marker: Path, rows: Path, plant, told: str) -> None:
    plant(copied, marker)
    uses = (("infer", copied, "-i", "a"), ("eval", copied, "--data", rows), ("merge", copied, "-o", "merged"))
    for command in uses:
        done = lorans(*command, "--force", stdin="y\n")
        assert not marker.exists()
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
    assert lorans("status", copied).returncode == 0
    assert not marker.exists()


def test_what_is_refused_is_named_and_runs_after_consent(copied: Path, marker: Path, rows: Path) -> None:
    plant_base(copied, marker)
    with_own_tokenizer(copied, marker)
    done = lorans("infer", copied, "-i", "a", "--force")
    assert "own.py (digest " in done.stderr
    done = lorans("infer", copied, "-i", "a", "--force", "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("allowed on this machine from now on") == 2
    assert marker.exists()
    marker.unlink()
    done = lorans("eval", copied, "--data", rows, "--force")
    assert done.returncode == 0, done.stderr
    (copied / "adapter" / "own.py").write_text(CODE.format(marker="changed"))
    done = lorans("eval", copied, "--data", rows, "--force")
    assert (done.returncode, Path("changed").exists()) == (2, False)


def test_a_recipe_that_needs_code_trains_after_consent_and_its_run_is_used_without_another(
    tmp_path: Path, marker: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(packaged("lorans:nano"), base)
    with_code(base, marker)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("lorans:nano", str(base)))
    few = ["--set", "training.max_steps=1", "--set", "dataset.max_samples=8"]
    said = ["--set", "model.trust_remote_code=true", "--set", f"model.revision={COMMIT}"]
    for words in (["train", "recipe.toml", *few], ["validate", "recipe.toml", "--model"]):
        done = lorans(*words, stdin="y\n")
        assert (done.returncode, marker.exists()) == (2, False)
        assert "needs code of its own to be run, and the recipe does not ask for that" in done.stderr
        done = lorans(*words, *said, stdin="y\n")
        assert (done.returncode, marker.exists()) == (2, False)
        assert "own.py (digest " in done.stderr
    done = lorans("train", "recipe.toml", *few, *said, "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    assert lorans("infer", "run", "-i", "a").returncode == 0
