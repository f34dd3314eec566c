"""Initialisation of a regression head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_ns.parallel.sharding import written_in_whole

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel


def begin_at_mean(model: PeftModel, rows: datasets.Dataset) -> None:
    """Initialise the bias of a new regression head with the mean of the training scores.

    A new head predicts about 0. If the scores are far from that, the first steps only move the head there, with
    gradients that damage what the base has learned. Nothing changes if the head's last layer has no bias, or if the
    rows are a stream, whose scores are not known yet.
    """
    import datasets
    import torch

    biases = [
        value
        for name, value in model.named_parameters()
        if value.requires_grad and ".modules_to_save." in name and name.endswith(".bias")
    ]
    if not biases or not isinstance(rows, datasets.Dataset):
        return
    with torch.no_grad(), written_in_whole(biases[-1]):
        if biases[-1].shape == (1,):
            biases[-1].fill_(float(torch.as_tensor(rows["labels"][:], dtype=torch.float64).mean()))
