"""Contents of a base's folder: the weights that transformers loads, other files, and settings of the right type.

Everything is checked before a library builds anything from it. A damaged folder, or one whose settings claim more than
its weights have, gives one message with the file's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lora_ns.errors import ModelError, Problem
from lora_ns.files.reading import LARGEST_RECIPE, read_json, read_text
from lora_ns.files.safetensors import FREEDOM, Tensors, is_count, largest_side, shortened

SETTINGS = "config.json"


GENERATION = "generation_config.json"


WEIGHTS = "model.safetensors"


INDEX = "model.safetensors.index.json"


ADAPTER = "adapter_config.json"


_ADAPTER_WEIGHTS = "adapter_model.safetensors"


_LONGEST_NAME, _LONGEST_PART = 1000, 255
"""Longest path below the folder, and longest part of it, in bytes."""


_AGAIN = "fetch the model again"


# Files


@dataclass(frozen=True)
class Contents:
    """Files of a folder, by purpose."""

    folder: Path
    weights: tuple[str, ...]
    """Files from which transformers loads the model; empty if the folder has no model."""
    others: tuple[str, ...]
    """Weight files that it does not load, such as `consolidated.safetensors`."""
    has_adapter: bool
    """True if there is an adapter, which transformers would apply to the model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about files in the folder that are not used."""
        found = [name for name in self.others if not (self.has_adapter and name == _ADAPTER_WEIGHTS)]
        notes = [f"the base's folder also has an adapter ({ADAPTER}), which is not loaded"] if self.has_adapter else []
        if found and self.weights:
            named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            notes.append(
                f"the base's folder has weights that transformers does not load; they are not counted: {named}"
            )
        return tuple(notes)

    @property
    def files(self) -> list[Path]:
        """Paths of the model's weight files."""
        return [self.folder / name for name in self.weights]


def classify(folder: Path) -> Contents:
    """Classify the files in a folder.

    Raises:
        ModelError: if the weights' index is broken, or names a file that is missing or outside the folder.
    """
    weights = _weights(folder)
    there = {file.name for file in folder.glob("*.safetensors")} if folder.is_dir() else set()
    return Contents(folder, weights, tuple(sorted(there - set(weights))), (folder / ADAPTER).is_file())


def weights_named(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that transformers loads, existing or not. Raises `ModelError`."""
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    named = settings.get("transformers_weights")
    if named is None:
        named = INDEX if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file() else WEIGHTS
    elif not isinstance(named, str) or not _is_name(named):
        what = f"`transformers_weights` is not a file name: {shortened(named)}"
        raise ModelError(Problem(str(folder / SETTINGS), what, _AGAIN))
    elif not _is_inside(named):
        what = f"`transformers_weights` is outside the folder: {shortened(named)}"
        raise ModelError(Problem(str(folder / SETTINGS), what, _AGAIN))
    return _indexed(folder / named) if named.endswith(".index.json") and (folder / named).is_file() else (named,)


def _weights(folder: Path) -> tuple[str, ...]:
    named = weights_named(folder)
    missing = [name for name in named if not (folder / name).is_file()]
    if missing == list(named) == [WEIGHTS]:
        return ()
    if missing:
        what = f"{len(missing)} of {len(named)} weight files are missing, such as {missing[0]}"
        raise ModelError(Problem(str(folder), what, _AGAIN))
    return named


def _indexed(index: Path) -> tuple[str, ...]:
    """Return the files that an index names. Raises `ModelError`."""
    content = read_object(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(Problem(str(index), "`weight_map` is not an object with the file of each tensor", _AGAIN))
    if not isinstance(content.get("metadata"), dict):
        raise ModelError(Problem(str(index), "`metadata` is not an object", 'add `"metadata": {}`, or fetch it again'))
    for tensor, name in places.items():
        where = shortened(tensor)
        if not isinstance(name, str) or not name.endswith(".safetensors") or not _is_name(name):
            raise ModelError(Problem(str(index), f"{where} is not in a .safetensors file: {shortened(name)}", _AGAIN))
        if not _is_inside(name):
            raise ModelError(Problem(str(index), f"{where} is in a file outside the folder: {shortened(name)}", _AGAIN))
    return tuple(sorted(set(places.values())))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_name(name: str) -> bool:
    """True if a text can be a path on this system."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    parts = encoded.split(b"/")
    return b"\0" not in encoded and len(encoded) <= _LONGEST_NAME and 0 < max(map(len, parts)) <= _LONGEST_PART


def check_model(contents: Contents) -> None:
    """Refuse a folder without a model. Raises `ModelError`."""
    folder = contents.folder
    if not (folder / SETTINGS).is_file():
        hint = (
            "an adapter is not a base model; name its base" if contents.has_adapter else "name the folder that has one"
        )
        raise ModelError(Problem(str(folder), "no config.json, so this is not a model", hint))
    if contents.weights:
        return
    if contents.has_adapter:
        what = f"an adapter without a model: {ADAPTER}, but no {WEIGHTS}"
        raise ModelError(Problem(str(folder), what, "an adapter is not a base model; name its base"))
    if contents.others:
        what = f"no {WEIGHTS} and no {INDEX}, only {', '.join(contents.others[:3])}, which transformers does not load"
        raise ModelError(Problem(str(folder), what, "download the model in the transformers format"))
    remedy = "lorans does not read pickled weights: convert them first"
    raise ModelError(Problem(str(folder), "no .safetensors weights", remedy))


# JSON


def read_object(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file of a model. Raises `ModelError` if it is something else."""
    loaded = read_json(file, ModelError, remedy=_AGAIN)
    if not isinstance(loaded, dict):
        raise ModelError(Problem(str(file), "not a JSON object", _AGAIN))
    return loaded


# Settings

_LARGEST_SIZE = 10**9


_MOST_LAYERS = 10_000


_MOST_LABELS = 1_000_000
"""Most labels; transformers creates a name for each as soon as it reads their number."""


_SIZES = (
    *("hidden_size", "n_embd", "dim", "d_model", "intermediate_size", "n_inner", "hidden_dim", "ffn_dim"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_attention_heads", "n_head", "n_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size"),
)


_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")


_POSITIONS = ("max_position_embeddings", "n_positions")


def _is_size(value: object, least: int = 1, most: int = _LARGEST_SIZE) -> bool:
    """True for a size, or a list with one size per layer."""
    return is_count(value, least, most) or (
        isinstance(value, list) and all(is_count(part, least, most) for part in value)
    )


def _is_token(value: object) -> bool:
    """True for one or several token ids; some models use -1 for none."""
    return _is_size(value, least=-1)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_template(value: object) -> bool:
    """True for a template, or several by name."""
    if isinstance(value, list):
        return all(_is_object(part) and _is_text(part.get("name")) and _is_text(part.get("template")) for part in value)
    return _is_text(value) or (isinstance(value, dict) and all(map(_is_text, value.values())))


def _is_special(value: object) -> bool:
    return _is_text(value) or (isinstance(value, dict) and _is_text(value.get("content")))


def _is_added(value: object) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and _is_special(token) for key, token in value.items())


Kind = tuple[Callable[[object], bool], str]


_TOKEN_KIND: Kind = (_is_token, "a token id, or a list of token ids")


_OBJECT: Kind = (_is_object, "an object")


_SPECIAL: Kind = (_is_special, "a token")


_TOKENS = dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), _TOKEN_KIND)


_SETTING_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(_SIZES, (_is_size, f"a whole number from 1 to {_LARGEST_SIZE:,}")),
    **dict.fromkeys(
        _LAYERS, (lambda value: is_count(value, 1, _MOST_LAYERS), f"a whole number from 1 to {_MOST_LAYERS:,}")
    ),
    **dict.fromkeys(_POSITIONS, (lambda value: is_count(value, -1, _LARGEST_SIZE), "a number of positions")),
    **dict.fromkeys(
        ("quantization_config", "text_config", "rope_parameters", "rope_scaling", "id2label", "label2id"), _OBJECT
    ),
    "num_labels": (lambda value: is_count(value, 0, _MOST_LABELS), f"a whole number up to {_MOST_LABELS:,}"),
    "model_type": (_is_text, "a name"),
    "architectures": (_is_names, "a list of names"),
    "auto_map": _OBJECT,
    **_TOKENS,
}


_TOKENIZER_KINDS: Mapping[str, Kind] = {
    "chat_template": (_is_template, "a template"),
    "added_tokens_decoder": (_is_added, "an object of tokens by id"),
    "tokenizer_class": (_is_text, "a name"),
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), _SPECIAL
    ),
    "additional_special_tokens": (
        lambda value: isinstance(value, list) and all(map(_is_special, value)),
        "a list of tokens",
    ),
    "model_max_length": (lambda value: isinstance(value, (int, float)) and value > 0, "a number above 0"),
}


def check_settings(file: Path, settings: Mapping[str, Any], kinds: Mapping[str, Kind] = _SETTING_KINDS) -> None:
    """Refuse known settings of the wrong type or size. Raises `ModelError` with all of them."""
    problems = []
    for key, (is_right, kind) in kinds.items():
        value = settings.get(key)
        if value is not None and not is_right(value):
            problems.append(Problem(str(file), f"`{key}` is {shortened(value)}, not {kind}", _AGAIN))
    if problems:
        raise ModelError(problems)
    text = settings.get("text_config")
    if text and kinds is _SETTING_KINDS:
        check_settings(file, text)


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return the folder's generation settings, from their own file or the model's settings. Raises `ModelError`."""
    for name in (GENERATION, SETTINGS):
        file = folder / name
        if file.exists():
            settings = read_object(file)
            check_settings(file, settings, _TOKENS)
            return settings
    return {}


def check_tokenizer_files(folder: Path) -> None:
    """Refuse broken tokenizer files, as far as their structure is concerned. Raises `ModelError`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"):
        file = folder / name
        if file.exists():
            check_settings(file, read_object(file), {} if name == "added_tokens.json" else _TOKENIZER_KINDS)
    if (folder / "tokenizer.json").exists() and not (folder / "tokenizer.json").is_file():
        raise ModelError(Problem(str(folder / "tokenizer.json"), "is not a file", _AGAIN))
    if (folder / "tokenizer.json").is_file():
        with (folder / "tokenizer.json").open("rb") as stream:
            if stream.read(64).lstrip()[:1] != b"{":
                raise ModelError(Problem(str(folder / "tokenizer.json"), "not a JSON object", _AGAIN))
    if (folder / "chat_template.jinja").exists():
        read_text(folder / "chat_template.jinja", ModelError, most=LARGEST_RECIPE, remedy=_AGAIN)


_FEW_LAYERS = 64
"""Number of layers that are quick to build whatever the weights are; some models store all layers as one tensor."""


def check_sizes(file: Path, settings: Mapping[str, Any], tensors: Tensors) -> None:
    """Refuse settings that claim a larger model than the weights, before one is built. Raises `ModelError`."""
    text: Mapping[str, Any] = settings.get("text_config") or settings
    largest = largest_side(tensors)
    for key in ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "ffn_dim"):
        claimed = max(_numbers(text.get(key)), default=0)
        if claimed > FREEDOM * largest:
            what = f"`{key}` is {claimed:,}, but no dimension of the weights is larger than {largest:,}"
            raise ModelError(Problem(str(file), what, "use the settings that belong to the weights"))
    for key in _LAYERS:
        layers = max(_numbers(text.get(key)), default=0)
        if layers > max(_FEW_LAYERS, len(tensors)):
            what = f"`{key}` is {layers:,}, but the weights have only {len(tensors):,} tensors"
            raise ModelError(Problem(str(file), what, "use the settings that belong to the weights"))


def _numbers(value: object) -> Iterable[int]:
    values = value if isinstance(value, list) else [value]
    return [part for part in values if isinstance(part, int)]
