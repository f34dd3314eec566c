"""Logged rows reach the watches of an objective, and a resumed run does not repeat what it has reported."""

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from lora_ns.objectives import OBJECTIVES
from lora_ns.objectives.dpo import Dpo
from lora_ns.run.observer import SilentObserver
from lora_ns.training.learning import metric_watch

START = {"eval_rewards/margins": 0.0, "eval_logps/chosen": -40.0, "eval_logps/rejected": -45.0}
DISPLACED = {"eval_rewards/margins": 1.5, "eval_logps/chosen": -52.0, "eval_logps/rejected": -70.0}


class Told(SilentObserver):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize(("earlier", "count"), [([], 1), ([START], 1), ([START, DISPLACED], 0)])
def test_a_warning_is_given_once_with_its_step_even_if_the_run_is_resumed(earlier, count):
    observer, state = Told(), SimpleNamespace(global_step=1200)
    callback = metric_watch(Dpo().watches(), earlier, observer)
    for row in (*([] if earlier else [START]), DISPLACED, DISPLACED):
        callback.on_log(None, state, None, row)
    assert len(observer.warnings) == count
    for text in observer.warnings:
        assert text.startswith("step 1,200: held-out margins rise while both answers become less likely")
        assert text.endswith('(add "sft" to `dpo.loss_type`, raise `dpo.beta`, or lower `training.learning_rate`)')


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_run_of_an_objective_has_its_own_watches(kind):
    first, second = (kind.model_construct().watches() for _ in range(2))
    assert not {id(watch) for watch in first} & {id(watch) for watch in second}
    assert all(isinstance(name, str) for watch in first for name in watch.reads)
