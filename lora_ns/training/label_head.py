"""The head of a model that scores, before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_ns.parallel.sharding import written_in_whole

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel


def begin_at_mean(model: PeftModel, rows: datasets.Dataset) -> None:
    """Have a new head that scores begin with the mean of the training scores, where its last layer has a bias.

    A head made anew answers about 0. Far from what the scores are, the first steps only move it there, with gradients
    that spoil what the base knows. The rows of a stream are not known yet: with those, it begins as it was made.
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
