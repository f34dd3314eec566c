"""The vision tower of Gemma 3 (SigLIP, Zhai et al. 2023, arXiv 2303.15343), which is loaded with the text model."""

from __future__ import annotations

from lora_ns.architectures.weights import Settings, Weights

_DEFAULTS = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 896,
    "patch_size": 14,
    "num_channels": 3,
}
"""The tower that all sizes of Gemma 3 share."""


def vision_weights(weights: Weights, config: Settings, text_width: int) -> None:
    """Add the vision tower and the projection of its output to the width of the text model."""
    sizes, top = config.nested("vision_config", _DEFAULTS), "model.vision_tower."
    width, inner, patch = sizes("hidden_size"), sizes("intermediate_size"), sizes("patch_size")
    weights.add(f"{top}embeddings.patch_embedding.weight", (width, sizes("num_channels"), patch, patch), "other")
    weights.add(f"{top}embeddings.patch_embedding.bias", (width,), "bias")
    weights.embedding(f"{top}embeddings.position_embedding", (sizes("image_size") // patch) ** 2, width)
    for number in range(sizes("num_hidden_layers")):
        name = f"{top}encoder.layers.{number}."
        weights.layer_norms(width, f"{name}layer_norm1", f"{name}layer_norm2")
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            weights.linear(f"{name}self_attn.{part}", width, width, bias=True)
        weights.linear(f"{name}mlp.fc1", width, inner, bias=True)
        weights.linear(f"{name}mlp.fc2", inner, width, bias=True)
    weights.layer_norms(width, f"{top}post_layernorm")
    weights.add("model.multi_modal_projector.mm_input_projection_weight", (width, text_width), "other")
    weights.norm("model.multi_modal_projector.mm_soft_emb_norm", width)
