"""A run that was ended after its last step, and before it was finished, is finished without another step."""

import shutil

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, resumed

from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.metrics import read_metrics

CONSTANT = ('training.lr_scheduler_type="constant"', "training.warmup_ratio=0", "training.max_steps=5")
BEST = ("training.load_best_model_at_end=true", "training.metric_for_best_model=eval_loss")
CASES = {
    "streamed": (RECIPE.replace("max_samples = 64\n", ""), *CONSTANT, "dataset.streaming=true"),
    "the best checkpoint": (RECIPE, *CONSTANT, *BEST, "training.save_steps=2", "training.eval_steps=2"),
}
MORE = {
    "plain": (RECIPE, *CONSTANT),
    "by epochs": (RECIPE.replace("max_steps = 6", "num_train_epochs = 0.9"), *CONSTANT[:2]),
    "packed and accumulated": (RECIPE, *CONSTANT, "sft.packing=true", "training.per_device_train_batch_size=2"),
    "classes": (CLASSES, *CONSTANT),
    **{
        strategy: (RECIPE, *CONSTANT, f'distributed.strategy="{strategy}"', "distributed.num_processes=2")
        for strategy in ("ddp", "deepspeed")
    },
}


def without_times(metrics):
    """The metrics that do not depend on the process."""
    return {name: value for name, value in metrics.items() if not name.endswith(("runtime", "peak_memory_bytes"))}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.cluster) for name in MORE)])
def test_no_step_is_trained_after_the_last_one(trained, monkeypatch, name):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    run = trained(*{**CASES, **MORE}[name])
    before, rows = run.read(), read_metrics(run.metrics).rows
    shutil.rmtree(run.adapter)
    run.update(status="running", adapter={}, seal=None, metrics={})
    resumed(run)
    after = run.read()
    assert after.adapter[WEIGHTS] == before.adapter[WEIGHTS]
    assert (after.data, after.seal.largest_difference, after.status) == (before.data, 0, "finished")
    assert without_times(after.metrics) == without_times(before.metrics)
    assert read_metrics(run.metrics).rows == rows
