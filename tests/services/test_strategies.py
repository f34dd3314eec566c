"""Two processes give the adapter of one, however the work is divided, and go on to the same bits."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

import test_accelerate_files as accelerate_files
import test_added_tokens as added_tokens
import test_labels_in_processes as labels
import test_pairs as pairs
import test_regroup as regroup
import test_stream as stream
import torch
from families import write_decoder
from once import once
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file, save_file
from services_recipes import RECIPE, run_recipe
from strategies import (
    BY_DDP_ALONE,
    CLUSTER,
    CLUSTER_STEPS,
    OFFLOADED,
    ROW_PARTS,
    SAMPLE,
    SHARED,
    STARTS,
    STRATEGIES,
    Cell,
    check_trained,
    drive,
    offered,
    prepare_run,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lora_ns.model.adapter import WEIGHTS
from lora_ns.parallel.context import MODEL_TYPES
from lora_ns.run.directory import RunDir
from lora_ns.training.fit import initialise_alone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The run of one process for a recipe."""

    @functools.cache
    def run(*overrides):
        return run_recipe(tmp_path_factory.mktemp("alone"), RECIPE, *SHARED, *overrides)

    return run


def prepare_rows(folder, strategy, rows, *more):
    """Runs of two processes up to the point where they would be started."""
    return {
        name: prepare_run(folder / name, *row.overrides, *more, *STRATEGIES[strategy]) for name, row in rows.items()
    }


def named(runs, rows):
    """The runs as `drive` takes them."""
    return [f"{'+' if rows[name].interrupted else ''}{run.path}" for name, run in runs.items()]


def check_rows(runs, rows, strategy, alone, *more):
    """Hold each run to one process, and those that were interrupted to their own bits."""
    for name, run in runs.items():
        check_trained(run)
        check_same(run, alone(*rows[name].overrides, *more), strategy, rows[name].seal)
        if rows[name].interrupted:
            expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
            assert all(torch.equal(got[key], value) for key, value in expected.items())


def check_same(run, one, strategy, seal=1e-6):
    manifest, alone = run.read(), one.read()
    kind = "deepspeed" if strategy.startswith("zero") else strategy
    assert manifest.distributed.model_dump() == {"strategy": kind, "world_size": 2, "backend": "gloo"}
    if kind == "deepspeed":
        assert manifest.plan.deepspeed["zero_optimization"]["stage"] == int(strategy[-1])
    expected, got = load_file(one.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    assert allocated(run) == allocated(one)
    for name in ("before/eval_loss", "eval_loss", "eval_mean_token_accuracy"):
        assert manifest.metrics[name] == pytest.approx(alone.metrics[name], abs=1e-4)
    assert manifest.seal.largest_difference < seal


def allocated(run):
    """The ranks that AdaLoRA has left to each layer."""
    return json.loads((run.adapter / "adapter_config.json").read_text()).get("rank_pattern")


@dataclass(frozen=True)
class Other:
    """A run of another file's subject, which prepares it and checks what two processes made of it."""

    prepare: Callable[[Path], RunDir]
    check: Callable[[RunDir, Path], None]
    interrupted: bool = False


OTHERS = {
    "stream": Other(stream.prepare_two, stream.check_two, interrupted=True),
    "goes-on": Other(regroup.prepare_by_command, regroup.check_by_command),
    "stream-goes-on": Other(regroup.prepare_stream, regroup.check_stream),
    "tokens-tied": Other(
        partial(added_tokens.prepare_two, is_tied=True), partial(added_tokens.check_two, is_tied=True), interrupted=True
    ),
    "tokens-untied": Other(
        partial(added_tokens.prepare_two, is_tied=False),
        partial(added_tokens.check_two, is_tied=False),
        interrupted=True,
    ),
    "pairs": Other(pairs.prepare_two, pairs.check_two),
    "no-accelerate-file": Other(accelerate_files.prepare_without_file, accelerate_files.check_finished),
}


OFTEN = ("stream", "goes-on", "pairs")
"""Runs of other subjects that are trained whenever the tests run."""


@pytest.fixture(scope="module")
def seldom(tmp_path_factory):
    """The other runs of other subjects, in one pair of processes."""
    return once(tmp_path_factory, "seldom", lambda folder: train_others(folder, OTHERS.keys() - OFTEN))


def train_others(folder, names):
    others = {name: OTHERS[name].prepare(folder / name) for name in sorted(names)}
    drive(named(others, OTHERS))
    return others


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """What is trained whenever the tests run, all in one pair of processes."""
    return once(tmp_path_factory, "sampled", train_sampled)


def train_sampled(folder):
    runs = {name: prepare_rows(folder / name, name, rows) for name, rows in SAMPLE.items() if name in offered()}
    kinds = {name: labels.prepare_kinds(folder / name, name, found) for name, found in labels.SAMPLE.items()}
    others = {name: OTHERS[name].prepare(folder / name) for name in OFTEN}
    texts = [word for name, found in runs.items() for word in named(found, SAMPLE[name])]
    texts += [f"+{run.path}" for found in kinds.values() for run in found.values()]
    texts += named(others, OTHERS)
    drive(texts)
    return runs, kinds, others


@pytest.mark.parametrize("strategy", [name for name in SAMPLE if name in offered()])
def test_two_processes_give_the_adapter_of_one(sampled, alone, strategy):
    check_rows(sampled[0][strategy], SAMPLE[strategy], strategy, alone)


@pytest.mark.parametrize(("strategy", "kind"), [(name, kind) for name in labels.SAMPLE for kind in labels.SAMPLE[name]])
def test_two_processes_give_the_classifier_of_one(sampled, tmp_path, strategy, kind):
    labels.check_same(sampled[1][strategy][kind], labels.run_kind(tmp_path, kind))


@pytest.mark.cluster
def test_each_of_two_machines_has_whole_checkpoints_and_begins_as_the_first(tmp_path, alone):
    runs = prepare_machines(tmp_path)
    drive([on_machines(runs)])
    expected = load_file(runs[0].path / AS_TRAINED_AT_ONCE / WEIGHTS)
    for run in runs:
        check_trained(run)
        check_same(run, alone(*STARTS["pissa"].overrides), "fsdp", STARTS["pissa"].seal)
        got = load_file(run.adapter / WEIGHTS)
        assert all(torch.equal(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", OFTEN)
def test_two_processes_do_what_one_does(sampled, tmp_path, name):
    check_other(sampled[2][name], tmp_path, name)


@pytest.mark.cluster
@pytest.mark.parametrize("name", sorted(OTHERS.keys() - OFTEN))
def test_two_processes_do_what_one_does_seldom(seldom, tmp_path, name):
    check_other(seldom[name], tmp_path, name)


def check_other(run, tmp_path, name):
    check_trained(run)
    OTHERS[name].check(run, tmp_path)


def prepare_machines(folder):
    """A run of FSDP on two machines, as each has it. Its start is computed here; that of DDP in a process."""
    meeting = ("distributed.num_nodes=2", "distributed.rdzv_endpoint=127.0.0.1:29500")
    said = (*STRATEGIES["fsdp"], *meeting, *STARTS["pissa"].overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora_ns.services.execute.initialise_in_subprocess", lambda run, *_: initialise_alone(run))
        runs = [prepare_run(folder / name, *said, processes=1) for name in ("first", "second")]
    round_otherwise(runs[1].start / WEIGHTS)
    return runs


def on_machines(runs):
    """Runs of several machines as `drive` takes them."""
    return f"+{','.join(str(run.path) for run in runs)}"


def round_otherwise(file):
    """Compute a start as another kind of machine does, whose last bits are others."""
    save_file({name: value * 1.001 for name, value in load_file(file).items()}, file)


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", offered())
def test_every_strategy_gives_the_adapter_of_one_process(tmp_path, alone, strategy):
    rows, steps = {**CLUSTER, **(BY_DDP_ALONE if strategy == "ddp" else {})}, f"training.max_steps={CLUSTER_STEPS}"
    runs = prepare_rows(tmp_path, strategy, rows, steps)
    drive(named(runs, rows))
    check_rows(runs, rows, strategy, alone, steps)


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", [name for name in ("ddp", "zero2", "fsdp") if name in offered()])
def test_every_start_is_that_of_one_process(tmp_path, alone, strategy):
    rows = STARTS if strategy == "ddp" else {start: STARTS[start] for start in ("eva", "lora_ga")}
    runs = prepare_rows(tmp_path, strategy, rows)
    drive(named(runs, rows))
    check_rows(runs, rows, strategy, alone)


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", [name for name in OFFLOADED if name in offered()])
def test_what_is_kept_in_the_hosts_memory_trains_the_same(tmp_path, alone, strategy):
    """DeepSpeed compiles its Adam for this, which takes some minutes when it is first asked for it."""
    cell = OFFLOADED[strategy]
    run = prepare_run(tmp_path / "run", *cell.overrides, *STRATEGIES[strategy])
    drive([f"+{run.path}"])
    check_trained(run)
    check_same(run, alone(), strategy)
    expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert all(torch.equal(got[key], value) for key, value in expected.items())


BASES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (functools.partial(MistralConfig, sliding_window=None), MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (functools.partial(Qwen3Config, head_dim=16), Qwen3ForCausalLM),
}
"""Tiny bases of 4 heads, and 2 of keys and values."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The override that names each of the bases."""
    folder = tmp_path_factory.mktemp("bases")
    for name, (config, model) in BASES.items():
        torch.manual_seed(0)
        write_decoder(folder / name, config, model, chat=True)
    return {name: f"model.name_or_path={folder / name}" for name in BASES}


@pytest.mark.cluster
@pytest.mark.skipif("zero2" not in offered(), reason="needs DeepSpeed")
def test_rows_that_are_divided_give_the_adapter_of_one_process(tmp_path, alone, bases):
    assert tuple(BASES) == MODEL_TYPES
    rows = {
        stage: {name: replace(cell, overrides=(bases["llama"], *cell.overrides)) for name, cell in cells.items()}
        for stage, cells in ROW_PARTS.items()
    }
    rows["zero2"] |= {name: Cell((base,)) for name, base in bases.items() if name != "llama"}
    runs = {
        stage: prepare_rows(tmp_path / stage, stage, cells, "distributed.context_parallel_size=2")
        for stage, cells in rows.items()
    }
    drive([word for stage, found in runs.items() for word in named(found, rows[stage])])
    for stage, found in runs.items():
        check_rows(found, rows[stage], stage, alone)
