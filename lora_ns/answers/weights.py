"""The weights that an opened run computes with: its adapter, its base alone, a checkpoint or another run's adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lora_ns.answers.opened import Opened, Trained, load_whole_base, loading_of
from lora_ns.model.saved_adapter import can_share, load_beside, put_weights

ADAPTER = ""
"""The adapter of the run."""

BASE = "base"
"""The base without the adapter."""


def shares_load(opened: Opened, other: Opened) -> bool:
    """True if the adapters of two runs can be on one load of their base."""
    pair = (opened, other)
    if any(one.adapter is None or one.manifest.added_tokens or one.manifest.base_adapters for one in pair):
        return False
    if not all(one.manifest.recipe.peft.keeps_base for one in pair):
        return False
    if loading_of(opened.manifest) != loading_of(other.manifest) or opened.base.fingerprint != other.base.fingerprint:
        return False
    return all(one.adapter is not None and can_share(one.adapter) for one in pair)


class Weights:
    """A loaded run whose weights change from task to task, so that one load serves several systems."""

    def __init__(self, trained: Trained, beside: Mapping[str, Opened] | None = None) -> None:
        """Use a loaded run.

        Args:
            trained: the run.
            beside: runs whose adapters share its load, by their names in the model; see `shares_load`.
        """
        self._trained = trained
        self._beside = beside or {}
        self._there = ADAPTER
        self._bare: Trained | None = None

    @contextlib.contextmanager
    def using(self, weights: str) -> Iterator[Trained]:
        """The run with other weights: `ADAPTER`, `BASE`, the folder of an adapter of the same configuration, or a name.

        With the name of a run beside it, that run's own template, stop tokens and labels are used, too.

        Raises:
            UsageError: if the adapter in that folder is another one.
        """
        if weights == BASE:
            with self._base() as trained:
                yield trained
            return
        if weights in self._beside:
            with self._adapter_of(weights, self._beside[weights]) as trained:
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
    def _adapter_of(self, name: str, opened: Opened) -> Iterator[Trained]:
        """The adapter of another run on the same base."""
        model = self._trained.model
        if name not in model.peft_config:
            assert opened.adapter is not None, "`shares_load` is true of adapters only"
            load_beside(model, opened.adapter, name)
        model.set_adapter(name, inference_mode=True)
        try:
            yield replace(self._trained, run=opened.run, manifest=opened.manifest, tokenizer=opened.tokenizer)
        finally:
            model.set_adapter("default", inference_mode=True)

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
