"""A stranger's run or base with code in it: nothing runs without the user's consent, in whatever place it hides."""

import json
import pickle
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from command_line import lorans
from services_recipes import RECIPE, run_recipe
from transformers import dynamic_module_utils

from lora_ns.errors import UsageError
from lora_ns.machine.libraries import Noise
from lora_ns.model.files import Base, packaged
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import mark_checkpoint
from lora_ns.run.observer import SilentObserver
from lora_ns.services.resume import resume
from lora_ns.training.pickles import check_deepspeed_states

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
    table.pop("checksum", None)  # which a stranger would do too
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


def settled(run: Path) -> None:
    """The manifest says that a base in the run is the one that was trained on, as a stranger would have it."""
    if (run / "base").is_dir():
        base = Base("base", run / "base")
        changed_manifest(run, "base", "fingerprint", value=base.fingerprint)
        changed_manifest(run, "base", "tokenizer_fingerprint", value=base.tokenizer_fingerprint)


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


def plant_megatron(run: Path, marker: Path) -> None:
    changed(run / "adapter" / "adapter_config.json", megatron_config={"a": 1}, megatron_core="transformers.own")


def plant_other_method(run: Path, marker: Path) -> None:
    others = {"one": str(run / "others"), "two": "evil/adapter"}
    changed(run / "adapter" / "adapter_config.json", peft_type="XLORA", adapters=others, hidden_size=192)


def plant_log(run: Path, marker: Path) -> None:
    (run / "train.log").unlink()
    (run / "train.log").symlink_to(marker)


UNASKED = "needs its own code, which the recipe does not enable"
REFUSED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "code beside the tokenizer": (plant_tokenizer, "own.py (digest "),
    "code beside the tokenizer, which nothing asks for": (plant_tokenizer_unsaid, UNASKED),
    "code in a base in the run": (plant_base, "own.py (digest "),
    "a generate of the base's own": (plant_generate, "custom_generate/generate.py (digest "),
    "a reference to any file": (plant_absolute_reference, "this is not a normal reference to code"),
    "a reference to a folder here": (plant_local_repository, "this is not a normal reference to code"),
    "a kernel of another repository": (plant_kernel, "requests the attention kernel `evil/kernel`"),
    "a kernel that the base asks for": (plant_kernel_in_base, "requests the attention kernel `evil/kernel`"),
    "an adapter that imports a library": (plant_megatron, "makes PEFT import Megatron"),
    "an adapter of adapters": (plant_other_method, "XLoraConfig is not a method of lorans"),
    "a log that is a file of the user's": (plant_log, "is a link; a run must own its files"),
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
    settled(copied)
    uses = (("infer", copied, "-i", "a"), ("eval", copied, "--data", rows), ("merge", copied, "-o", "merged"))
    for command in uses:
        done = lorans(*command, "--force", stdin="y\n")
        assert not marker.exists()
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
    assert lorans("status", copied).returncode in {0, 2}
    assert not marker.exists()


class Planted:
    """What creates the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.marker,))


def plant_pickles(run: Path, marker: Path) -> None:
    checkpoints = list((run / "checkpoints").glob("checkpoint-*"))
    everywhere = ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "1_submitted.pkl", "1_0_result.pkl")
    states = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
    for folder in (run, run / "adapter", run / "jobs" / "1", *checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*everywhere, *(states if folder in checkpoints else ())):
            torch.save(Planted(marker), folder / name)


def plant_template(run: Path, marker: Path) -> None:
    escape = f"cycler.__init__.__globals__.os.system('touch {marker}')"
    text = "{{ " + escape + " }}{{ messages[0].content.__class__.__mro__[1].__subclasses__() }}"
    (run / "adapter" / "chat_template.jinja").write_text(text)


def plant_class_name(run: Path, marker: Path) -> None:
    with_own_tokenizer(run, marker)
    file = run / "adapter" / "tokenizer_config.json"
    table = json.loads(file.read_text())
    del table["auto_map"]
    file.write_text(json.dumps({**table, "tokenizer_class": "own.OwnTokenizer"}))


def plant_modules(run: Path, marker: Path) -> None:
    for folder in (run, run / "adapter", Path()):
        for name in ("torch", "typer", "sitecustomize", "usercustomize", "conftest"):
            (folder / f"{name}.py").write_text(CODE.format(marker=str(marker)))


def plant_custom_generation(run: Path, marker: Path) -> None:
    changed(run / "adapter" / "generation_config.json", custom_generate=str(run), trust_remote_code=True)
    (run / "custom_generate").mkdir()
    (run / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker)))


HARMLESS: dict[str, Callable[[Path, Path], None]] = {
    "pickles": plant_pickles,
    "a chat template that looks for a way out": plant_template,
    "a class name with a module": plant_class_name,
    "modules with the names of libraries": plant_modules,
    "generation settings with code": plant_custom_generation,
}
"""Ways to smuggle code that nothing follows: what is planted may be refused for another reason, or be left aside."""


@pytest.mark.parametrize("plant", HARMLESS.values(), ids=HARMLESS)
def test_code_that_nothing_loads_is_not_run(copied: Path, marker: Path, rows: Path, plant) -> None:
    plant(copied, marker)
    uses = (("infer", copied, "-i", "a"), ("eval", copied, "--data", rows), ("merge", copied, "-o", "merged"))
    for command in (*uses, ("status", copied)):
        assert lorans(*command, *(["--force"] if command in uses else []), stdin="y\n").returncode in {0, 2}
        assert not marker.exists()


def test_pickles_in_a_checkpoint_are_not_run_when_it_is_resumed(tmp_path: Path, marker: Path) -> None:
    run = run_recipe(tmp_path, RECIPE, "training.save_steps=3", "dataset.max_samples=16")
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    shutil.rmtree(run.adapter)
    run.update(status="interrupted", adapter={})
    checkpoint = run.checkpoints / "checkpoint-3"
    plant_pickles(run.path, marker)
    mark_checkpoint(checkpoint, run.read().run_id, 3)
    told = "checkpoint-3: a state in it cannot be read without running code"
    with pytest.raises(UsageError, match=told), Noise() as noise:
        resume(run, SilentObserver(), noise)
    assert not marker.exists()


@pytest.mark.parametrize("planted", ["posix.system", "a link", "no archive", "another folder"])
def test_states_of_deepspeed_that_name_code_are_refused(tmp_path: Path, marker: Path, planted: str) -> None:
    step = tmp_path / "checkpoint-1" / "global_step1"
    step.mkdir(parents=True)
    (step.parent / "latest").write_text("global_step1")
    torch.save({"a": torch.ones(2)}, step / "mp_rank_00_model_states.pt")
    check_deepspeed_states(step.parent)
    file = step / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    if planted == "posix.system":
        torch.save(Planted(marker), file)
    elif planted == "a link":
        file.symlink_to(step / "mp_rank_00_model_states.pt")
    elif planted == "no archive":
        file.write_bytes(pickle.dumps(Planted(marker)))
    else:
        (step.parent / "latest").write_text("../../elsewhere")
    with pytest.raises(UsageError):
        check_deepspeed_states(step.parent)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["code in a base in the run", "a kernel that the base asks for"])
def test_code_of_a_run_is_not_run_when_it_is_resumed(copied: Path, marker: Path, name: str) -> None:
    plant, told = REFUSED[name]
    plant(copied, marker)
    settled(copied)
    changed_manifest(copied, "status", value="interrupted")
    done = lorans("train", copied, "--resume", stdin="y\n")
    assert (done.returncode, marker.exists()) == (2, False)
    assert told in done.stderr


def test_a_run_does_not_say_whom_this_machine_meets(copied: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        several = {"strategy": "ddp", "num_processes": 1, "num_nodes": 2, "rdzv_endpoint": place}
        changed_manifest(copied, "recipe", "distributed", value=several)
        changed_manifest(copied, "status", value="interrupted")
        with Noise() as noise, pytest.raises(UsageError, match=f"--rdzv-endpoint {place} --resume"):
            resume(RunDir.open(copied), SilentObserver(), noise)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


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
    own = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    changed(base / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("lorans:nano", str(base)))
    few = ["--set", "training.max_steps=1", "--set", "dataset.max_samples=8"]
    said = ["--set", "model.trust_remote_code=true", "--set", f"model.revision={COMMIT}"]
    for words in (["train", "recipe.toml", *few], ["validate", "recipe.toml", "--model"]):
        done = lorans(*words, stdin="y\n")
        assert (done.returncode, marker.exists()) == (2, False)
        assert "needs its own code, which the recipe does not enable" in done.stderr
        done = lorans(*words, *said, stdin="y\n")
        assert (done.returncode, marker.exists()) == (2, False)
        assert "own.py (digest " in done.stderr
    done = lorans("train", "recipe.toml", *few, *said, "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    assert Path("run/adapter/own.py").is_file()
    assert lorans("infer", "run", "-i", "a").returncode == 0
