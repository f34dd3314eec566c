"""The heavy libraries as a whole."""

import gc
import sys

import pytest

from lora_ns.engine.libraries import prepare
from lora_ns.errors import MissingError
from lora_ns.machine import detect


def test_garbage_is_collected_again_after_libraries_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingError, match=r"`peft` cannot be imported \(`pip install lora-ns`; `lorans env-check`"):
        prepare(detect())
    assert gc.isenabled()
