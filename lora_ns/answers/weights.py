"""The weights that an opened run computes with: its adapter, its base alone, or the adapter of a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lora_ns.answers.opened import Trained, load_whole_base, loading_of
from lora_ns.model.saved_adapter import put_weights

ADAPTER = ""
"""The adapter of the run."""

BASE = "base"
"""The base without the adapter."""


class Weights:
    """A loaded run whose weights change from task to task, so that one load serves several systems."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._there = ADAPTER
        self._bare: Trained | None = None

    @contextlib.contextmanager
    def using(self, weights: str) -> Iterator[Trained]:
        """The run with other weights: `ADAPTER`, `BASE`, or the folder of an adapter of the same configuration.

        Raises:
            UsageError: if the adapter in that folder is another one.
        """
        if weights == BASE:
            with self._base() as trained:
                yield trained
            return
        if weights != self._there:
            put_weights(self._trained.model, Path(weights) if weights else self._trained.run.adapter)
            self._there = weights
        yield self._trained

    def restore(self) -> None:
        """Put the adapter of the run back."""
        with self.using(ADAPTER):
            pass

    @contextlib.contextmanager
    def _base(self) -> Iterator[Trained]:
        """The base: the adapter switched off, or a second load if its method has changed the weights of the base."""
        manifest = self._trained.manifest
        if manifest.recipe.peft.keeps_base:
            with self._trained.model.disable_adapter():
                yield self._trained
            return
        if self._bare is None:
            bare = load_whole_base(self._trained.run, manifest, self._trained.base, loading_of(manifest)).eval()
            self._bare = replace(self._trained, model=bare)
        yield self._bare
