"""`[model]`: the base model and how it is loaded."""

from __future__ import annotations

from typing import Literal

from lora_ns.table import Name, Table, Text


class Model(Table):
    """The base model. It is never changed: only the adapter is trained."""

    name_or_path: Name
    """Hub id such as `mistralai/Mistral-7B-v0.1`, a folder, a GGUF file, or `lorans:nano`, the model in the package."""
    gguf_file: Name | None = None
    """GGUF file in the folder or repository to read the weights from; they are unpacked to plain numbers."""
    revision: Name = "main"
    """Branch, tag or commit on the hub; the commit that it stood for goes into the manifest."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of the base weights and of the computation; `auto` takes the best that the device computes well."""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel, by its transformers name; `auto` is `sdpa`."""
    add_tokens: tuple[Text, ...] = ()
    """Tokens to add, such as `["<think>", "</think>"]`: each is trained as a row of its own in embeddings and head."""
    trust_remote_code: bool = False
    """The model needs code of its own: pin `revision` to a full commit hash, and allow it by `--trust-remote-code`."""
