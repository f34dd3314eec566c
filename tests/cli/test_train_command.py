"""What `lorans train` prints of its measurements."""

from lora_ns.cli.train import _measurements


def test_a_measure_is_shown_with_an_arrow_only_if_it_was_taken_before_and_after():
    metrics = {"before/eval_loss": 2.5, "before/eval_f1": 0.25, "eval_f1": 0.5, "train_loss": 1.5}
    assert _measurements(metrics) == [
        ("eval_loss", "2.5 before training, not measured after it"),
        ("eval_f1", "0.25 -> 0.5"),
        ("train_loss", "1.5"),
    ]
