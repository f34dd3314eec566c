"""A run ends when its loss is no longer a loss, and not before."""

import math

import pytest

from lora_ns.errors import RunError
from lora_ns.training.callbacks import MOST_OVERFLOWS, BrokenLoss

GOOD = {"step": 1, "loss": 1.5, "grad_norm": 2.0}
OVERFLOW = {**GOOD, "grad_norm": math.inf}


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("row", [{"loss": math.nan}, {"loss": math.inf, "grad_norm": math.inf}, {"loss": 0.0}])
def test_a_loss_that_is_none_ends_the_run(row, scales):
    with pytest.raises(RunError, match="step 3: "):
        BrokenLoss().look({"step": 3, **row}, scales)


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_ends_a_run_without_a_scale(norm):
    with pytest.raises(RunError, match=f"step 1: grad_norm is {norm}"):
        BrokenLoss().look({**GOOD, "grad_norm": norm}, False)


def test_a_scale_is_looked_for_by_overflows_and_found_or_not():
    watch = BrokenLoss()
    for _ in range(3):
        for _ in range(MOST_OVERFLOWS - 1):
            watch.look(OVERFLOW, True)
        watch.look(GOOD, True)
    for _ in range(MOST_OVERFLOWS - 1):
        watch.look(OVERFLOW, True)
    with pytest.raises(RunError, match="grad_norm is inf"):
        watch.look(OVERFLOW, True)


@pytest.mark.parametrize("row", [{"eval_loss": 0.0}, {"loss": 0.0, "grad_norm": 1.0}, {"train_runtime": 1.0}])
def test_other_rows_do_not(row):
    BrokenLoss().look({"step": 1, **row}, False)
