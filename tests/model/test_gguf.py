"""The header of a GGUF file is walked over before the package reads it, which believes every length in it."""

import struct
from importlib.util import find_spec

import pytest

from lora_ns.errors import ModelError
from lora_ns.model.gguf import read_gguf

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="read by gguf")

U8, U32, STRING, LIST = 0, 4, 8, 9


def counts(tensors, settings):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, settings)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def setting(kind, value):
    return text("general.name") + struct.pack("<I", kind) + value


LYING = {
    "many settings": counts(0, 2**60),
    "many tensors": counts(2**60, 0),
    "a long text": counts(0, 1) + setting(STRING, struct.pack("<Q", 2**62)),
    "a long name": counts(0, 1) + struct.pack("<Q", 2**63),
    "a long list of numbers": counts(0, 1) + setting(LIST, struct.pack("<IQ", U8, 2**40)),
    "a long list of texts": counts(0, 1) + setting(LIST, struct.pack("<IQ", STRING, 2**40)),
    "lists in lists": counts(0, 1) + setting(LIST, struct.pack("<IQ", LIST, 1) * 10_000),
    "an unknown type": counts(0, 1) + setting(99, b""),
    "many sides": counts(1, 0) + text("a.weight") + struct.pack("<I", 2**31),
    "nothing behind its counts": counts(1, 1),
    "no counts": b"GGUF",
    "an architecture that is a number": counts(0, 1) + text("general.architecture") + struct.pack("<II", U32, 7),
}


@pytest.mark.parametrize("name", LYING)
def test_a_header_that_lies_about_lengths_is_told(tmp_path, name):
    file = tmp_path / "model.gguf"
    file.write_bytes(LYING[name])
    with pytest.raises(ModelError, match="not a GGUF file") as told:
        read_gguf(file)
    assert told.value.problems[0].where == str(file)
