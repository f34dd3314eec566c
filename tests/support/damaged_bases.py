"""Damaged copies of the embedded base: one mutation for each, and the file that the error message must name."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from lora_ns.model.files import ASSETS

NANO = ASSETS / "nano"
Mutation = Callable[[Path], None]


def settings(file: str, **changed: object) -> Mutation:
    """Change some keys of a JSON file; None removes a key."""

    def mutate(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        content = {key: value for key, value in {**content, **changed}.items() if value is not None}
        (folder / file).write_text(json.dumps(content))

    return mutate


def text(file: str, content: str | bytes) -> Mutation:
    """Replace the content of a file."""
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(file: str, share: float = 0.5) -> Mutation:
    """Truncate a file."""

    def mutate(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return mutate


def weights(change: Callable[[dict], object], data: bytes | None = None, file: str = "model.safetensors") -> Mutation:
    """Change the header of the weights, and their data if some is given."""

    def mutate(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        header = change(header) or header
        head = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / file).write_bytes(
            struct.pack("<Q", len(head)) + head + (content[8 + size :] if data is None else data)
        )

    return mutate


def index(content: object, keep: bool = False) -> Mutation:
    """Replace the single file of weights by an index."""

    def mutate(folder: Path) -> None:
        if not keep:
            (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return mutate


def tokenizer(change: Callable[[dict], object]) -> Mutation:
    """Change tokenizer.json."""

    def mutate(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return mutate


def one(name: str) -> Callable[[dict], object]:
    """Change one entry of a header: `name` is dtype, shape or data_offsets, with the new value after `=`."""
    key, _, value = name.partition("=")

    def change(header: dict) -> None:
        entry = header["model.norm.weight"]
        if value:
            entry[key] = json.loads(value)
        else:
            del entry[key]

    return change


def raw(content: bytes) -> Callable[[dict], object]:
    """Replace the whole header."""
    return lambda _: content


def doubled(header: dict) -> bytes:
    whole = json.dumps(header)
    entry = json.dumps(header["model.norm.weight"])
    return (whole[:-1] + f', "model.norm.weight": {entry}' + "}").encode()


def overlapping(header: dict) -> None:
    offsets = header["model.norm.weight"]["data_offsets"]
    length = offsets[1] - offsets[0]
    other = next(
        entry
        for name, entry in header.items()
        if name not in {"model.norm.weight", "__metadata__"} and entry["data_offsets"][0] >= 0
    )
    header["model.norm.weight"]["data_offsets"] = [other["data_offsets"][0], other["data_offsets"][0] + length]


NESTED = "[" * 10_000 + "]" * 10_000
MAP = {"model.norm.weight": "part.safetensors"}
CONFIG, GENERATION, TOKENS, TOKENIZER = (
    *("config.json", "generation_config.json"),
    *("tokenizer_config.json", "tokenizer.json"),
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

DAMAGED: dict[str, tuple[str, Mutation]] = {
    "config is a list": (CONFIG, text(CONFIG, "[]")),
    "config is cut": (CONFIG, cut(CONFIG)),
    "config is empty": (CONFIG, text(CONFIG, "")),
    "config is not UTF-8": (CONFIG, text(CONFIG, b'{"a": "\xff"}')),
    "config is nested": (CONFIG, text(CONFIG, f'{{"a": {NESTED}}}')),
    "config has a long number": (CONFIG, text(CONFIG, f'{{"hidden_size": {"9" * 10_000}}}')),
    "config has a size as text": (CONFIG, settings(CONFIG, hidden_size="x")),
    "config has a size as truth": (CONFIG, settings(CONFIG, hidden_size=True)),
    "config has a size as a fraction": (CONFIG, settings(CONFIG, vocab_size=320.5)),
    "config has a negative size": (CONFIG, settings(CONFIG, intermediate_size=-1)),
    "config has no heads": (CONFIG, settings(CONFIG, num_attention_heads=0)),
    "config has heads that do not divide": ("", settings(CONFIG, num_attention_heads=7, head_dim=None)),
    "config has key heads that do not divide": (CONFIG, settings(CONFIG, num_key_value_heads=5)),
    "config has many layers": (CONFIG, settings(CONFIG, num_hidden_layers=20_000)),
    "config has more layers than tensors": (CONFIG, settings(CONFIG, num_hidden_layers=400)),
    "config has many labels": (CONFIG, settings(CONFIG, num_labels=10**8)),
    "config has a large vocabulary": (CONFIG, settings(CONFIG, vocab_size=10**12)),
    "config has a larger vocabulary than the weights": (CONFIG, settings(CONFIG, vocab_size=10**8)),
    "config has a larger hidden size": (CONFIG, settings(CONFIG, hidden_size=192 * 1000)),
    "config has quantisation as a list": (CONFIG, settings(CONFIG, quantization_config=[1])),
    "config has a model type as a list": (CONFIG, settings(CONFIG, model_type=["llama"])),
    "config has an unknown model type": ("", settings(CONFIG, model_type="no-such-model")),
    "config has no model type": ("", settings(CONFIG, model_type=None)),
    "config has positions as a list": (CONFIG, settings(CONFIG, rope_parameters=[1])),
    "config has a kind of positions that there is not": ("", settings(CONFIG, rope_parameters={"rope_type": 3})),
    "config has an activation that there is not": ("", settings(CONFIG, hidden_act="nothing")),
    "config has an activation as a number": ("", settings(CONFIG, hidden_act=3)),
    "config has an end token as text": (CONFIG, settings(CONFIG, eos_token_id="</s>")),
    "config has labels as a list": (CONFIG, settings(CONFIG, id2label=["a"])),
    "config has another hidden size": (CONFIG, settings(CONFIG, hidden_size=256)),
    "config has a small vocabulary": ("", settings(CONFIG, vocab_size=3)),
    "config has a norm as text": ("", settings(CONFIG, rms_norm_eps="small")),
    "config has a type that there is not": ("", settings(CONFIG, dtype="float99")),
    "generation is cut": (GENERATION, text(GENERATION, "{")),
    "generation is empty": (GENERATION, text(GENERATION, "")),
    "generation is a list": (GENERATION, text(GENERATION, "[1]")),
    "generation is nested": (GENERATION, text(GENERATION, f'{{"a": {NESTED}}}')),
    "generation has an end token as text": (GENERATION, settings(GENERATION, eos_token_id="x")),
    "generation has end tokens as objects": (GENERATION, settings(GENERATION, eos_token_id=[{}])),
    "tokenizer settings are a list": (TOKENS, text(TOKENS, "[]")),
    "tokenizer settings are cut": (TOKENS, cut(TOKENS)),
    "tokenizer settings are nested": (TOKENS, text(TOKENS, f'{{"a": {NESTED}}}')),
    "tokenizer settings have a token as a number": (TOKENS, settings(TOKENS, eos_token=7)),
    "tokenizer settings have a template as a number": (TOKENS, settings(TOKENS, chat_template=7)),
    "tokenizer settings have templates without names": (TOKENS, settings(TOKENS, chat_template=[{"template": "a"}])),
    "tokenizer settings have no default template": (
        "",
        lambda folder: (
            (folder / "chat_template.jinja").unlink(),
            settings(TOKENS, chat_template=[{"name": "rag", "template": "a"}])(folder),
        ),
    ),
    "tokenizer settings have tokens by names": (TOKENS, settings(TOKENS, added_tokens_decoder={"a": {"content": "b"}})),
    "tokenizer settings have tokens as a list": (TOKENS, settings(TOKENS, added_tokens_decoder=[1])),
    "tokenizer settings have a class as a list": (TOKENS, settings(TOKENS, tokenizer_class=["a"])),
    "special tokens are a list": ("special_tokens_map.json", text("special_tokens_map.json", "[]")),
    "added tokens are cut": ("added_tokens.json", text("added_tokens.json", "{")),
    "the template is not UTF-8": ("chat_template.jinja", text("chat_template.jinja", b"\xff\xfe")),
    "the template object is a list": ("chat_template.json", text("chat_template.json", "[]")),
    "tokenizer is a list": (TOKENIZER, text(TOKENIZER, "[]")),
    "tokenizer is cut": ("", cut(TOKENIZER)),
    "tokenizer is empty": (TOKENIZER, text(TOKENIZER, "")),
    "tokenizer is nested": (TOKENIZER, text(TOKENIZER, NESTED)),
    "tokenizer is not UTF-8": ("", text(TOKENIZER, b'{"version": "\xff"}')),
    "tokenizer has a vocabulary as a list": ("", tokenizer(lambda content: content["model"].update(vocab=[1]))),
    "tokenizer has no model": ("", tokenizer(lambda content: content.pop("model"))),
    "tokenizer has an unknown model": ("", tokenizer(lambda content: content["model"].update(type="None"))),
    "tokenizer has a decoder as a number": ("", tokenizer(lambda content: content.update(decoder=3))),
    "tokenizer has added tokens as text": ("", tokenizer(lambda content: content.update(added_tokens="x"))),
    "tokenizer has a number of a token as text": (
        "",
        tokenizer(lambda content: content["added_tokens"][0].update(id="x")),
    ),
    "weights are cut": (WEIGHTS, cut(WEIGHTS)),
    "weights are empty": (WEIGHTS, text(WEIGHTS, b"")),
    "weights are a pickle": (WEIGHTS, text(WEIGHTS, b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.")),
    "weights have a long header": (WEIGHTS, text(WEIGHTS, struct.pack("<Q", 2**63) + b"{}")),
    "weights have a nested header": (WEIGHTS, weights(raw(NESTED.encode()))),
    "weights have a header as a list": (WEIGHTS, weights(raw(b"[1]"))),
    "weights have a header that is not UTF-8": (WEIGHTS, weights(raw(b'{"\xff": 1}'))),
    "weights have no type": (WEIGHTS, weights(one("dtype"))),
    "weights have no place": (WEIGHTS, weights(one("data_offsets"))),
    "weights have a type as a number": (WEIGHTS, weights(one("dtype=3"))),
    "weights have a negative shape": (WEIGHTS, weights(one("shape=[-192]"))),
    "weights have a shape as text": (WEIGHTS, weights(one('shape="x"'))),
    "weights have another shape than bytes": (WEIGHTS, weights(one("shape=[191]"))),
    "weights have a huge shape": (WEIGHTS, weights(one("shape=[281474976710656, 281474976710656]"))),
    "weights end before they begin": (WEIGHTS, weights(one("data_offsets=[400, 16]"))),
    "weights have three places": (WEIGHTS, weights(one("data_offsets=[0, 1, 2]"))),
    "weights overlap": (WEIGHTS, weights(overlapping)),
    "weights are named twice": (WEIGHTS, weights(doubled)),
    "weights have an unknown type": ("", weights(one('dtype="F99"'))),
    "weights lack tensors": ("", weights(lambda header: header.pop("model.layers.2.mlp.up_proj.weight") and None)),
    "weights are of no tensors": (CONFIG, weights(raw(b"{}"), b"")),
    "index is a list": (INDEX, index([])),
    "index has no map": (INDEX, index({"metadata": {}})),
    "index has a map as a list": (INDEX, index({"metadata": {}, "weight_map": [1]})),
    "index has no metadata": (INDEX, index({"weight_map": MAP})),
    "index names a number": (INDEX, index({"metadata": {}, "weight_map": {"a": 3}})),
    "index names a pickle": (INDEX, index({"metadata": {}, "weight_map": {"a": "part.bin"}})),
    "index names a file that is not there": (
        "other.safetensors",
        index({"metadata": {}, "weight_map": {"a": "other.safetensors"}}),
    ),
    "index names a file outside": (INDEX, index({"metadata": {}, "weight_map": {"a": "../part.safetensors"}})),
    "index names a file by its full path": (INDEX, index({"metadata": {}, "weight_map": {"a": "/etc/a.safetensors"}})),
    "only other weights": (
        "consolidated.safetensors",
        lambda folder: (folder / WEIGHTS).rename(folder / "consolidated.safetensors"),
    ),
    "weights are a folder": ("", lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir())),
    **{
        f"{name} is a pipe": (name, lambda folder, name=name: ((folder / name).unlink(), os.mkfifo(folder / name)))
        for name in (CONFIG, GENERATION, TOKENS, TOKENIZER, "chat_template.jinja")
    },
    "settings are a folder": ("", lambda folder: ((folder / CONFIG).unlink(), (folder / CONFIG).mkdir())),
}
"""For each kind of damage, the file that must be named, and the mutation; empty if the folder itself is named."""


def damage(folder: Path, name: str) -> str:
    """Make a damaged copy of the embedded base, and return the name of the file that must be reported."""
    shutil.copytree(NANO, folder)
    file, mutate = DAMAGED[name]
    mutate(folder)
    return file
