"""The start of training as a reference model, for every method and every TRL trainer with a `ref_model`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class FrozenStart:
    """A model with the adapter that training started from, to be called like the model; it shares the base's weights.

    TRL adds a second adapter for this, which methods with one adapter refuse, and which would be saved beside the
    trained one. Here, frozen copies of the trained parameters are put in their place for a forward pass. They are other
    tensors, so that neither autograd nor autocast, which keeps rounded weights, can confuse the two.
    """

    def __init__(self, model: Any) -> None:
        """Copy all parameters of the model that require a gradient."""
        import torch

        self.model = model
        frozen = {
            id(value): torch.nn.Parameter(value.detach().clone(), requires_grad=False)
            for value in model.parameters()
            if value.requires_grad
        }
        self._places = [
            (module, name, frozen[id(value)])
            for module in model.modules()
            for name, value in module.named_parameters(recurse=False, remove_duplicate=False)
            if id(value) in frozen
        ]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute as it did when training started."""
        trained = [getattr(module, name) for module, name, _ in self._places]
        try:
            for module, name, value in self._places:
                setattr(module, name, value)
            yield
        finally:
            for (module, name, _), value in zip(self._places, trained, strict=True):
                setattr(module, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's outputs at the start of training."""
        with self.in_place():
            return self.model(*args, **kwargs)
