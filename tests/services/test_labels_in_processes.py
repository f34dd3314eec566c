"""Classifiers in two processes: the adapter and head of one, each evaluation row measured once, the same bits again."""

import functools
import json

import pytest

pytest.importorskip("torch")

import torch
from architectures import write_architecture
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file
from services_recipes import CLASSES
from strategies import STRATEGIES, check_trained, drive, offered, prepared
from test_labels import SCORES, SEVERAL, TAGGED, run_rows

from lora_ns.model.adapter import WEIGHTS

pytestmark = pytest.mark.slow

STEPS = "max_steps = 20\nsave_steps = 10\neval_steps = 10\nwarmup_steps = 0\nsave_total_limit = 5\n"
TEXT = CLASSES.replace("lorans:nano", "base").replace("max_steps = 30\nsave_steps = 30\neval_steps = 30\n", STEPS)
SHARED = (
    "training.global_batch_size=8",
    "training.per_device_train_batch_size=2",
    "training.per_device_eval_batch_size=2",
    "training.learning_rate=1e-3",
    "dataset.max_eval_samples=7",
)
LOUD = [{"text": row["text"], "label": "loud" if row["text"].isupper() else "quiet"} for row in SCORES]
LENGTHS = (4, 9, 1, 2, 7, 5, 3, 1)
MORE_WORDS = [*TAGGED, *({"tokens": ["plum", "STONE"] * size, "tags": ["O", "B-loud"] * size} for size in LENGTHS)]
BEST = ("training.load_best_model_at_end=true", "training.metric_for_best_model=accuracy")
KINDS = {
    "classes": (TEXT, LOUD, ("classification.class_weights=[3.0, 0.5]", *BEST)),
    "smoothed": (TEXT, LOUD, ("training.extra.label_smoothing_factor=0.1", "training.per_device_train_batch_size=1")),
    "scores": (TEXT, SCORES, ()),
    "scores by a decoder": (TEXT, SCORES, ()),
    "several": (TEXT, SEVERAL, ("classification.class_weights=balanced",)),
    "tags": (
        TEXT.replace("SEQ_CLS", "TOKEN_CLS"),
        MORE_WORDS,
        ("classification.class_weights=balanced", "training.per_device_train_batch_size=1"),
    ),
}
"""Recipe, rows and overrides by what is predicted; the words of a micro-batch are not as many in each process."""
SAMPLE = {"ddp": ("tags",), "fsdp": ("scores",)}
"""What is trained whenever the tests run, with what `test_strategies` has."""


def write_base(folder, family):
    """A tiny model without dropout, which draws other numbers in each process."""
    write_architecture(folder, family)
    file = folder / "base/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))


def run_kind(folder, name, *overrides):
    text, rows, own = KINDS[name]
    write_base(folder, "llama" if "decoder" in name else "bert")
    return run_rows(folder, text, rows, *SHARED, *own, *overrides)


def measured(run):
    skipped = ("_runtime", "_per_second", "train_loss", "peak_memory_bytes", "padding")
    return {name: value for name, value in run.read().metrics.items() if not name.endswith(skipped)}


def prepare_kinds(folder, strategy, kinds):
    """Runs of two processes up to the point where they would be started."""
    runs = {}
    for name in kinds:
        (folder / name).mkdir(parents=True)
        processes = (*STRATEGIES[strategy], "distributed.num_processes=2")
        runs[name] = prepared(functools.partial(run_kind, folder / name, name, *processes))
    return runs


def check_same(run, one):
    check_trained(run)
    expected, got = load_file(one.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    assert measured(run) == pytest.approx(measured(one), abs=1e-4)
    assert run.read().seal.largest_difference < 1e-6
    assert run.read().distributed.world_size == 2
    at_once = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS)
    assert all(torch.equal(at_once[name], value) for name, value in got.items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process for a kind."""

    @functools.cache
    def run(name):
        return run_kind(tmp_path_factory.mktemp(name), name)

    return run


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", offered())
def test_every_strategy_gives_the_classifier_of_one_process(alone, tmp_path, strategy):
    """Each kind is interrupted, too, and goes on to the same bits."""
    runs = prepare_kinds(tmp_path, strategy, KINDS)
    drive([f"+{run.path}" for run in runs.values()])
    for name, run in runs.items():
        check_same(run, alone(name))
