"""One GPU trains what a CPU trains, one rank of every strategy what one process does, and a full memory is told."""

import os
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import RECIPE, interrupt, resumed, run_recipe

from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHARED = ("training.learning_rate=1e-3", "training.per_device_train_batch_size=4", "training.save_steps=3")
BASES = {
    "float32": (),
    "bfloat16": ('model.dtype="bfloat16"',),
    "float16": ('model.dtype="float16"',),
    "nf4": ('quantization.method="bnb-4bit"',),
    "nf4 in bfloat16": ('quantization.method="bnb-4bit"', 'model.dtype="bfloat16"'),
    "int8": ('quantization.method="bnb-8bit"',),
    "packing": ("sft.packing=true", "dataset.max_samples=400"),
    "checkpointing": ("training.gradient_checkpointing=true",),
    "dora": ("peft.use_dora=true",),
    "ia3": ('peft.method="ia3"',),
    "prompt-tuning": ('peft.method="prompt-tuning"',),
}
ZERO = ('distributed.strategy="deepspeed"', "distributed.num_processes=1")
STRATEGIES = {
    "ddp": ('distributed.strategy="ddp"', "distributed.num_processes=1"),
    "zero2": (*ZERO, "distributed.zero_stage=2"),
    "zero2, optimizer on the CPU": (*ZERO, "distributed.zero_stage=2", 'distributed.offload_optimizer="cpu"'),
    "zero3": (*ZERO, "distributed.zero_stage=3"),
    "zero3, all on the CPU": (
        *(*ZERO, "distributed.zero_stage=3"),
        *('distributed.offload_optimizer="cpu"', 'distributed.offload_param="cpu"'),
    ),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process on the GPU, in float32."""
    return run_recipe(tmp_path_factory.mktemp("alone"), RECIPE, *SHARED)


def check_same(run, expected, tolerance):
    wanted, got = load_file(expected.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=tolerance, rtol=0)


def executed(folder, words, **surroundings):
    """What a command in a process of its own prints."""
    environment = {**os.environ, **surroundings}
    found = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


def lorans(folder, *words, **surroundings):
    return executed(folder, [sys.executable, "-m", "lora_ns", *words], **surroundings)


def said(*overrides):
    return [word for override in (*SHARED, *overrides) for word in ("--set", override)]


def test_a_gpu_trains_the_adapter_of_a_cpu(tmp_path, alone):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    lorans(tmp_path, "train", "recipe.toml", *said(), CUDA_VISIBLE_DEVICES="")
    on_cpu = RunDir.open(tmp_path / "run")
    assert on_cpu.read().plan.device.value == "cpu"
    assert alone.read().plan.device.value == "cuda"
    check_same(alone, on_cpu, 1e-4)
    answers = [
        lorans(tmp_path, "infer", str(run.path), "--input", "Spell planet backwards.") for run in (alone, on_cpu)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", BASES)
def test_what_is_saved_is_what_was_trained_and_goes_on(tmp_path, kind):
    run = run_recipe(tmp_path, RECIPE, *SHARED, *BASES[kind])
    manifest = run.read()
    assert manifest.plan.device.value == "cuda"
    assert manifest.seal.largest_difference < 5e-3
    assert manifest.metrics["eval_loss"] < manifest.metrics["before/eval_loss"]
    assert 0 < manifest.metrics["peak_memory_bytes"] <= manifest.metrics["peak_reserved_bytes"]
    expected = load_file(run.adapter / WEIGHTS)
    interrupt(run, 6)
    resumed(run)
    for name, value in load_file(run.adapter / WEIGHTS).items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_one_rank_of_a_strategy_gives_the_adapter_of_one_process(tmp_path, alone, kind):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    if kind == "ddp":  # which `lorans train` would give to a single process
        command = lorans(tmp_path, "launch-command", "recipe.toml", *said(*STRATEGIES[kind]))
        variables, _, words = command.partition(sys.executable)
        named = dict(pair.split("=", 1) for pair in shlex.split(variables))
        executed(tmp_path, [sys.executable, *shlex.split(words)], **named)
    else:
        lorans(tmp_path, "train", "recipe.toml", *said(*STRATEGIES[kind]))
    run = RunDir.open(tmp_path / "run")
    strategy = "ddp" if kind == "ddp" else "deepspeed"
    assert run.read().distributed.model_dump() == {"strategy": strategy, "world_size": 1, "backend": "nccl"}
    assert run.read().seal.largest_difference < 1e-5
    check_same(run, alone, 1e-4)


@pytest.fixture
def little_memory():
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 60e6) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_step_that_does_not_fit_is_done_again_in_halves(tmp_path, little_memory):
    large = ("dataset.max_samples=1024", "training.global_batch_size=1024")
    run = run_recipe(tmp_path, RECIPE, *SHARED, "training.per_device_train_batch_size=1024", *large)
    assert run.read().status == "finished"
    assert 1 <= run.read().halved.train < 1024
