"""The loss of each of some rows, alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets


def row_losses(trainer: Any, rows: datasets.Dataset) -> tuple[tuple[float, int], ...]:
    """Return the loss of each row, a mean over its tokens or labels that count, and their number.

    The model is in evaluation mode afterwards, and the sums of the trainer's next evaluation begin anew.
    """
    args, found = trainer.args, []
    size, args.per_device_eval_batch_size = args.per_device_eval_batch_size, 1
    try:
        model = trainer.model.eval()
        for batch in trainer.get_eval_dataloader(rows):
            count = int(trainer.count_of(trainer._prepare_inputs(batch)))
            loss = trainer.prediction_step(model, batch, prediction_loss_only=True)[0]
            found.append((float(loss), count))
    finally:
        args.per_device_eval_batch_size = size
        trainer.__dict__.pop("_eval_sums", None)
    return tuple(found)
