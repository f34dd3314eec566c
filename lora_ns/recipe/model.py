"""`[model]`: the base model."""

from __future__ import annotations

from typing import Literal

from lora_ns.table import Name, Table, Text


class Model(Table):
    """The base model. Its weights are frozen: only the adapter is trained."""

    name_or_path: Name
    """Hub id such as `mistralai/Mistral-7B-v0.1`, a folder, a GGUF file, or `lorans:nano` from the package."""
    gguf_file: Name | None = None
    """GGUF file in the folder or repository to load; its weights are dequantised."""
    revision: Name = "main"
    """Branch, tag or commit on the hub. The manifest records the commit."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Dtype of the base and of the computation; `auto` is the best one that the device computes fast."""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation, by its transformers name. `auto` is `eager` if the base has no `sdpa`, else `sdpa`, on
    a CPU in bfloat16 with matrix products for short rows."""
    add_tokens: tuple[Text, ...] = ()
    """Tokens to add, such as `["<think>", "</think>"]`. Their rows of the embeddings and the head are trained."""
    init_adapter: Name | None = None
    """Directory of a finished run whose adapter is trained further, such as the SFT run before DPO. `[peft]` is that of
    the adapter and can be left out."""
    base_adapters: tuple[Name, ...] = ()
    """Directories of finished runs whose adapters are merged into the base, one after the other, before the new one is
    added."""
    trust_remote_code: bool = False
    """Run the model's own code; needs a full commit hash as `revision`, and the option `--trust-remote-code`."""
