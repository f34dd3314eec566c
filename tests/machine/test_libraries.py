"""The heavy libraries as a whole."""

import gc
import os
import sys

import pytest

from lora_ns.errors import MissingError, RunError
from lora_ns.machine.hardware import TRAINING_PYTHON, detect
from lora_ns.machine.libraries import Noise, prepare


def test_garbage_is_collected_again_after_libraries_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    can_train = sys.version_info >= TRAINING_PYTHON
    remedy = "`pip install lora-ns`; `lorans env-check`" if can_train else "transformers and trl need Python 3.11"
    with pytest.raises(MissingError, match=rf"`peft` cannot be imported \({remedy}"):
        prepare(detect())
    assert gc.isenabled()


def test_a_log_has_no_secrets_once_the_command_has_ended(tmp_path):
    token = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA2b"
    with Noise() as noise:
        noise.attach(tmp_path / "train.log")
        os.write(1, f"loading with {token}\n".encode())
    assert (tmp_path / "train.log").read_text() == f"loading with {'*' * len(token)}\n"


def test_a_log_that_cannot_be_written_is_a_message_and_what_was_collected_stays(tmp_path):
    (tmp_path / "run").touch()
    with Noise() as noise:
        os.write(1, b"collected\n")
        with pytest.raises(RunError, match=r"train\.log: cannot be written: Not a directory"):
            noise.attach(tmp_path / "run" / "train.log")
        noise.attach(tmp_path / "train.log")
    assert (tmp_path / "train.log").read_text() == "collected\n"


def test_libraries_that_cannot_be_opened_are_not_said_to_be_missing(monkeypatch):
    class Refusing:
        def find_spec(self, name, *_):
            raise ImportError(f"{name}.so: cannot open shared object file: Too many open files")

    monkeypatch.delitem(sys.modules, "peft", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing()])
    with pytest.raises(ImportError, match="Too many open files"):
        prepare(detect())
