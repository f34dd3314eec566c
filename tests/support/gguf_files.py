"""GGUF files of small Llama models, as llama.cpp writes them."""

import json
from pathlib import Path

from lora_ns.model.files import ASSETS

NANO = ASSETS / "nano"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(file: Path, source: Path = NANO, kind: str = "F32", pre: str = "default", **settings: object) -> Path:
    """Write the Llama model in a folder as a GGUF file.

    `kind` is llama.cpp's name for the dtype of the matrices. The rows of queries and keys are in the order of
    llama.cpp's converter. `settings` are further keys of the architecture, with `__` for each dot.
    """
    import gguf
    from safetensors.torch import load_file

    config = json.loads((source / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(file, "llama")
    _write_settings(writer, config, settings)
    _write_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), config, pre)
    for name, stored_value in load_file(source / "model.safetensors").items():
        value = stored_value.float().numpy()
        last = name.removesuffix(".weight").rpartition(".")[2]
        if last in heads:
            halves = value.reshape(heads[last], 2, -1, value.shape[1])
            value = halves.swapaxes(1, 2).reshape(value.shape)
        stored = kind if value.ndim == 2 else "F32"
        raw = gguf.GGMLQuantizationType[stored]
        writer.add_tensor(_renamed(name), gguf.quants.quantize(value, raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_settings(writer, config, settings):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    for key, value in settings.items():
        writer.add_string(f"llama.{key.replace('__', '.')}", value)


def _write_tokenizer(writer, tokenizer, config, pre):
    vocabulary = {
        **tokenizer["model"]["vocab"],
        **{entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]},
    }
    by_id = {number: token for token, number in vocabulary.items()}
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]] or ["a b"])
    writer.add_eos_token_id(config["eos_token_id"])


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name
