"""The embedded base in the formats of GPTQ and AWQ, packed here because their packages need calibration data."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lora_ns.model.files import ASSETS

GROUP = 32
SETTINGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}
_ORDER = {"gptq": range(8), "awq": (0, 2, 4, 6, 1, 3, 5, 7)}
"""The order of eight codes in a word."""


def pack_nano(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Write the base with its linear layers in 4 bits, and return the dequantised weights of those layers."""
    shutil.copytree(ASSETS / "nano", folder)
    stored, meant = {}, {}
    for name, value in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            stored[name] = value.half()
            continue
        codes, scales = _codes(value.float())
        module = name.removesuffix(".weight")
        zeros = torch.full_like(scales, 7 if kind == "gptq" else 8, dtype=torch.int64)  # GPTQ stores one less
        stored |= {f"{module}.scales": scales, f"{module}.qzeros": _words(zeros, _ORDER[kind])}
        if kind == "gptq":
            stored[f"{module}.qweight"] = _words(codes, _ORDER[kind]).T.contiguous()
            stored[f"{module}.g_idx"] = torch.arange(value.shape[1], dtype=torch.int32) // GROUP
        else:
            stored[f"{module}.qweight"] = _words(codes.T.contiguous(), _ORDER[kind])
        meant[name] = (codes - 8).float() * scales.float().T.repeat_interleave(GROUP, dim=1)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": SETTINGS[kind]}))
    return meant


def _codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes from 0 to 15, centred at 8, and the scale of each group and output."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    scales = (groups.abs().amax(-1) / 7).half()
    codes = (groups / scales.float()[..., None]).round().clamp(-8, 7) + 8
    return codes.reshape(weight.shape).long(), scales.T.contiguous()


def _words(codes: torch.Tensor, order: range | tuple[int, ...]) -> torch.Tensor:
    """Pack eight codes of a row into each 32-bit integer."""
    parts = codes.reshape(codes.shape[0], -1, 8)
    word = sum(parts[..., part] << (4 * place) for place, part in enumerate(order))
    return torch.where(word < 2**31, word, word - 2**32).int()
