"""torch is hidden from the imports of a block, and from nothing else."""

import importlib.util
import sys

import pytest

from lora_ns.machine.without_torch import without_torch


@pytest.fixture
def fresh(monkeypatch):
    """As in a process that has imported neither torch nor transformers."""
    for name in ("torch", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_torch_is_not_there_within_the_block_alone(fresh):
    before = importlib.util.find_spec("torch")
    with without_torch():
        assert importlib.util.find_spec("torch") is None
        with pytest.raises(ImportError):
            import torch  # noqa: F401
    assert "torch" not in sys.modules
    assert (importlib.util.find_spec("torch") is None) == (before is None)


def test_an_error_in_the_block_ends_it(fresh):
    with pytest.raises(ValueError, match="planned"), without_torch():
        raise ValueError("planned")
    assert "torch" not in sys.modules


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_nothing_is_hidden_once_one_of_them_is_imported(fresh, monkeypatch, name):
    imported = object()
    monkeypatch.setitem(sys.modules, name, imported)
    with without_torch():
        assert sys.modules[name] is imported
        assert sys.modules.get("torch", imported) is imported
