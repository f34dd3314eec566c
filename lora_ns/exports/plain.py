"""`plain`: any adapter as a LoRA whose scale is 1, on the base as it is stored.

Programs that serve adapters read `r` and `lora_alpha`, and several ignore every other field of `adapter_config.json`
without a word. With `lora_alpha = r`, one rank for all layers and the original base, there is nothing left to ignore.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.exports.factors import Factors
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.folder import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor, nn

HIGHEST = 512
"""The highest rank that vLLM serves (`vllm/config/lora.py`), up to which updates are written without loss."""

_PREFIX = "base_model.model."


def cut_all(
    updates: Mapping[str, Factors], rank: int | None = None, energy: float | None = None
) -> tuple[dict[str, Factors], float]:
    """Bring the updates of all layers to one rank.

    Args:
        updates: the updates by layer.
        rank: the largest rank.
        energy: the share of the sum of squared singular values that each layer keeps.

    Returns:
        The updates, and the largest share of one that is lost, by its Frobenius norm.
    """
    lost, found = 0.0, {}
    most = HIGHEST if rank is None else rank
    for name, factors in updates.items():
        found[name] = factors
        if energy is not None or factors.rank > most:
            found[name], less = factors.cut(most, energy)
            lost = max(lost, less)
    common = max((factors.rank for factors in found.values()), default=1)
    return {name: factors.padded(max(common, 1)) for name, factors in found.items()}, lost


def write(
    folder: Path,
    updates: Mapping[str, Factors],
    model: nn.Module,
    whole: Mapping[str, Mapping[str, Tensor]],
    record: Mapping[str, Any],
) -> int:
    """Write a plain LoRA in PEFT's files.

    Args:
        folder: the folder, which exists.
        updates: updates of one rank by layer.
        model: the base, whose other layers the names of targets must not match.
        whole: the tensors of modules that were trained as a whole, by module.
        record: fields of the configuration that describe base and task.

    Returns:
        The rank.
    """
    import peft
    from safetensors.torch import save_file

    (rank,) = {factors.rank for factors in updates.values()}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_targets(updates, model),
        fan_in_fan_out=any(factors.kind == "transposed" for factors in updates.values()),
        modules_to_save=sorted(whole) or None,
        inference_mode=True,
        **record,
    )
    tensors = {
        f"{_PREFIX}{name}.{part}": value.contiguous() for name, parts in whole.items() for part, value in parts.items()
    }
    for name, factors in updates.items():
        down, up = _NAMES[factors.kind == "embedding"]
        tensors[f"{_PREFIX}{name}.{down}"] = factors.down.contiguous()
        tensors[f"{_PREFIX}{name}.{up}"] = factors.up.contiguous()
    config.save_pretrained(str(folder))
    settings = folder / ADAPTER
    table = json.loads(settings.read_text(encoding="utf-8"))
    table["target_modules"].sort()  # PEFT writes them in any order
    settings.write_text(f"{json.dumps(table, indent=2, sort_keys=True)}\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return rank


_NAMES = {False: ("lora_A.weight", "lora_B.weight"), True: ("lora_embedding_A", "lora_embedding_B")}
"""Names of the factors of a layer, and of an embedding."""


def _targets(updates: Mapping[str, Factors], model: nn.Module) -> list[str]:
    """Return the last names of the layers, or their whole names where others end the same way."""
    ends = {name: name.rpartition(".")[2] for name in updates}
    others = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in updates}
    return sorted({name if end in others else end for name, end in ends.items()})
