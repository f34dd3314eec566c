"""Folders of a base by chance, made from the embedded one: each is a model, or one problem; none is a traceback."""

import contextlib
import json
import os
import random
import resource
import shutil
import struct
import time

import pytest

pytest.importorskip("transformers")

from campaign import fuzz, holds_for, lasts, limited
from damaged_bases import NANO
from documents import JUNK, changed
from hypothesis import strategies as st

from lora_ns.data.render import Renderer
from lora_ns.errors import LoransError
from lora_ns.formats import Conversation, Message, RowFaultError
from lora_ns.model.files import find_base
from lora_ns.model.load import Loading, empty_base, load_base
from lora_ns.model.tokenizer import base_tokenizer, choose_pad_token, stop_token_ids
from lora_ns.model.vocabulary import vocabulary

SLOW, LARGE = 5.0, 1 << 30
FILES = sorted(file.name for file in NANO.iterdir() if file.suffix != ".md")
JSONS = [name for name in FILES if name.endswith(".json")]
ADDED = ("special_tokens_map.json", "added_tokens.json", "model.safetensors.index.json", "adapter_config.json")
ADDED += ("vocab.json", "merges.txt", "tokenizer.model", "chat_template.json", "preprocessor_config.json")
KEYS = [
    "quantization_config",
    "text_config",
    "rope_scaling",
    "auto_map",
    "tie_word_embeddings",
    "layer_types",
    "dtype",
    "head_dim",
]
KEYS += [
    "sliding_window",
    "attn_implementation",
    "_attn_implementation",
    "num_labels",
    "id2label",
    "is_decoder",
    "torch_dtype",
]
KEYS += [
    "transformers_weights",
    "chat_template",
    "added_tokens_decoder",
    "extra_special_tokens",
    "tokenizer_class",
    "vocab_size",
]
KEYS += [
    "architectures",
    "problem_type",
    "pruned_heads",
    "use_cache",
    "max_length",
    "model_input_names",
    "padding_side",
    "legacy",
]


def change_json(drawn, folder):
    name = drawn.choice(JSONS)
    document = json.loads((folder / name).read_text())
    for _ in range(drawn.choice([1, 1, 1, 2, 4])):
        if isinstance(document, dict):
            document = changed(drawn, document, KEYS)
    (folder / name).write_text(json.dumps(document))


def change_header(drawn, folder):
    content = (folder / "model.safetensors").read_bytes()
    if len(content) < 8:
        return
    (size,) = struct.unpack("<Q", content[:8])
    header = changed(drawn, json.loads(content[8 : 8 + size]), KEYS)
    head = json.dumps(header).encode()
    data = content[8 + size :]
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)


def change_bytes(drawn, folder):
    name = drawn.choice(FILES)
    content = bytearray((folder / name).read_bytes() or b" ")
    kind = drawn.choice(["flip", "cut", "insert", "zero", "empty"])
    most = min(len(content), 20_000) if name == "model.safetensors" else len(content)
    place = drawn.randrange(most)
    if kind == "flip":
        content[place] ^= 1 << drawn.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = bytes(drawn.randrange(256) for _ in range(drawn.randrange(1, 9)))
    elif kind == "zero":
        content[place : place + 64] = bytes(64)
    else:
        content.clear()
    (folder / name).write_bytes(content)


def change_files(drawn, folder):
    name = drawn.choice(FILES)
    kind = drawn.choice(["missing", "foreign", "folder", "added", "pipe"])
    if kind == "added":
        name = drawn.choice(ADDED)
        (folder / name).write_text(json.dumps(drawn.choice(JUNK)))
        return
    (folder / name).unlink()
    if kind == "foreign":
        shutil.copy(NANO / drawn.choice(FILES), folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)


CHANGES = (change_json, change_json, change_json, change_header, change_bytes, change_files)


def use(folder):
    """All that is read of a base; raises what it is refused for."""
    base = find_base(str(folder), "main", [], download=False)
    _ = base.fingerprint, base.tokenizer_fingerprint
    tokenizer = base_tokenizer(base)
    stops = stop_token_ids(tokenizer, base.path)
    choose_pad_token(tokenizer, stops)
    renderer = Renderer(tokenizer, stops, vocabulary=vocabulary(base, tokenizer))
    with contextlib.suppress(RowFaultError):
        renderer.examples(Conversation((Message("user", "hello"), Message("assistant", "there"))))
    empty_base(base, "CAUSAL_LM")
    load_base(base, Loading("CAUSAL_LM", "float32", "cpu"))


def refusal(folder):
    """What a folder is refused for; None if it is a model."""
    try:
        use(folder)
    except LoransError as error:
        return error
    return None


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture
def check(tmp_path):
    def checked(seed):
        drawn, folder = random.Random(seed), tmp_path / "base"
        shutil.copytree(NANO, folder)
        try:
            for _ in range(drawn.choice([1, 1, 2])):
                if any((folder / name).is_fifo() for name in FILES):
                    break
                with contextlib.suppress(ValueError, OSError):  # the change before may have left nothing to change
                    drawn.choice(CHANGES)(drawn, folder)
            started, before = time.process_time(), memory()
            with limited():
                told = refusal(folder)
        finally:
            shutil.rmtree(folder)
        assert told is None or (told.problems[0].what and len(str(told)) < 20_000)
        assert time.process_time() - started < SLOW
        assert memory() - before < LARGE

    return checked


SEEDS = st.integers(0, 2**31)


def test_a_folder_by_chance_is_a_model_or_one_problem(check):
    holds_for(SEEDS, check, 20)


@fuzz
def test_folders_by_chance_are_models_or_one_problem(check):
    lasts(SEEDS, check)
