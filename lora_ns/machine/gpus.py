"""Known GPUs, for plans of machines that one does not have.

Memory is what `nvidia-smi` reports, in MiB. Rates are dense bfloat16 (float16 where a GPU has no bfloat16), with
accumulation in float32, from the makers' data sheets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_ns.errors import PlanError, Problem, did_you_mean
from lora_ns.machine.hardware import Gpu, Machine

_MEBIBYTE = 1024 * 1024


_DRIVER_BYTES = 300 * _MEBIBYTE
"""Memory that the driver keeps for itself on a GPU without a display."""


@dataclass(frozen=True)
class GpuModel:
    """A model of GPU."""

    name: str
    """Name as `nvidia-smi` has it, without the maker."""
    memory_mib: int
    capability: tuple[int, int]
    """CUDA compute capability."""
    teraflops: float
    """Dense rate of its matrix units, in 10^12 operations per second."""
    gigabytes_per_second: float
    """Memory bandwidth."""
    watts: int
    """Power limit."""
    aliases: tuple[str, ...] = ()
    """Other names that users give it."""

    @property
    def memory_bytes(self) -> int:
        """Total memory in bytes."""
        return self.memory_mib * _MEBIBYTE

    def installed(self, index: int) -> Gpu:
        """Return such a GPU without any other process."""
        free = self.memory_bytes - _DRIVER_BYTES
        return Gpu(index, self.name, self.memory_bytes, free, self.capability, "")


GPUS: Sequence[GpuModel] = (
    GpuModel("Tesla T4", 15360, (7, 5), 65, 320, 70, ("T4",)),
    GpuModel("Tesla V100-SXM2-16GB", 16384, (7, 0), 125, 900, 300, ("V100", "V100-16GB")),
    GpuModel("Tesla V100-SXM2-32GB", 32768, (7, 0), 125, 900, 300, ("V100-32GB",)),
    GpuModel("A10", 23028, (8, 6), 125, 600, 150),
    GpuModel("A10G", 23028, (8, 6), 70, 600, 300),
    GpuModel("A30", 24576, (8, 0), 165, 933, 165),
    GpuModel("A40", 46068, (8, 6), 149.7, 696, 300),
    GpuModel("A100-SXM4-40GB", 40960, (8, 0), 312, 1555, 400, ("A100-40GB", "A100-PCIE-40GB")),
    GpuModel("A100-SXM4-80GB", 81920, (8, 0), 312, 2039, 400, ("A100", "A100-80GB", "A100 80GB PCIe")),
    GpuModel("L4", 23034, (8, 9), 121, 300, 72),
    GpuModel("L40", 46068, (8, 9), 181, 864, 300),
    GpuModel("L40S", 46068, (8, 9), 362, 864, 350),
    GpuModel("H100 80GB HBM3", 81559, (9, 0), 989, 3350, 700, ("H100", "H100-80GB", "H100-SXM")),
    GpuModel("H100 PCIe", 81559, (9, 0), 756, 2039, 350, ("H100-PCIe",)),
    GpuModel("H100 NVL", 95830, (9, 0), 835, 3938, 400, ("H100-NVL",)),
    GpuModel("GH200 480GB", 97871, (9, 0), 989, 4000, 900, ("GH200",)),
    GpuModel("H200", 143771, (9, 0), 989, 4800, 700),
    GpuModel("B200", 183359, (10, 0), 2250, 8000, 1000),
    GpuModel("GeForce RTX 2080 Ti", 11264, (7, 5), 53.8, 616, 250, ("2080 Ti",)),
    GpuModel("GeForce RTX 3060", 12288, (8, 6), 25.6, 360, 170, ("3060",)),
    GpuModel("GeForce RTX 3060 Ti", 8192, (8, 6), 32.4, 448, 200, ("3060 Ti",)),
    GpuModel("GeForce RTX 3070", 8192, (8, 6), 40.6, 448, 220, ("3070",)),
    GpuModel("GeForce RTX 3080", 10240, (8, 6), 59.5, 760, 320, ("3080", "RTX 3080 10GB")),
    GpuModel("GeForce RTX 3080 Ti", 12288, (8, 6), 68.2, 912, 350, ("3080 Ti",)),
    GpuModel("GeForce RTX 3090", 24576, (8, 6), 71, 936, 350, ("3090",)),
    GpuModel("GeForce RTX 3090 Ti", 24576, (8, 6), 80, 1008, 450, ("3090 Ti",)),
    GpuModel("GeForce RTX 4060", 8188, (8, 9), 30.2, 272, 115, ("4060",)),
    GpuModel("GeForce RTX 4060 Ti", 8188, (8, 9), 44.1, 288, 160, ("4060 Ti", "RTX 4060 Ti 8GB")),
    GpuModel("GeForce RTX 4060 Ti 16GB", 16380, (8, 9), 44.1, 288, 165, ("4060 Ti 16GB",)),
    GpuModel("GeForce RTX 4070", 12282, (8, 9), 58.3, 504, 200, ("4070",)),
    GpuModel("GeForce RTX 4070 SUPER", 12282, (8, 9), 71, 504, 220, ("4070 SUPER",)),
    GpuModel("GeForce RTX 4070 Ti", 12282, (8, 9), 80.2, 504, 285, ("4070 Ti",)),
    GpuModel("GeForce RTX 4080", 16376, (8, 9), 97.5, 717, 320, ("4080",)),
    GpuModel("GeForce RTX 4080 SUPER", 16376, (8, 9), 104.4, 736, 320, ("4080 SUPER",)),
    GpuModel("GeForce RTX 4090", 24564, (8, 9), 165.2, 1008, 450, ("4090",)),
    GpuModel("GeForce RTX 5070", 12227, (12, 0), 61.7, 672, 250, ("5070",)),
    GpuModel("GeForce RTX 5070 Ti", 16303, (12, 0), 87.9, 896, 300, ("5070 Ti",)),
    GpuModel("GeForce RTX 5080", 16303, (12, 0), 112.6, 960, 360, ("5080",)),
    GpuModel("GeForce RTX 5090", 32607, (12, 0), 209.5, 1792, 575, ("5090",)),
    GpuModel("GeForce RTX 3070 Laptop GPU", 8192, (8, 6), 32, 448, 115, ("RTX 3070 Laptop",)),
    GpuModel("GeForce RTX 3080 Laptop GPU", 16384, (8, 6), 38, 448, 150, ("RTX 3080 Laptop",)),
    GpuModel("GeForce RTX 4060 Laptop GPU", 8188, (8, 9), 23, 256, 115, ("RTX 4060 Laptop",)),
    GpuModel("GeForce RTX 4070 Laptop GPU", 8188, (8, 9), 31, 256, 115, ("RTX 4070 Laptop",)),
    GpuModel("GeForce RTX 4080 Laptop GPU", 12282, (8, 9), 49, 432, 150, ("RTX 4080 Laptop",)),
    GpuModel("GeForce RTX 4090 Laptop GPU", 16376, (8, 9), 66, 576, 150, ("RTX 4090 Laptop",)),
    GpuModel("Quadro RTX 6000", 24576, (7, 5), 130.5, 672, 260),
    GpuModel("RTX A4000", 16376, (8, 6), 76.7, 448, 140, ("A4000",)),
    GpuModel("RTX A5000", 24564, (8, 6), 111.1, 768, 230, ("A5000",)),
    GpuModel("RTX A6000", 49140, (8, 6), 154.8, 768, 300, ("A6000",)),
    GpuModel("RTX 4000 Ada Generation", 20475, (8, 9), 107, 360, 130, ("RTX 4000 Ada",)),
    GpuModel("RTX 6000 Ada Generation", 49140, (8, 9), 364.2, 960, 300, ("RTX 6000 Ada", "6000 Ada")),
    GpuModel("RTX PRO 6000 Blackwell", 97887, (12, 0), 503.8, 1792, 600, ("RTX PRO 6000",)),
)
"""Models by their names. Of several with the same short name, the one that clouds offer has it."""


_NOT_CUDA = ("mi210", "mi250", "mi250x", "mi300a", "mi300x", "mi325x", "mi355x", "gaudi2", "gaudi3", "tpu")
"""Accelerators for training that are no CUDA devices."""


def machine_with(request: str, here: Machine) -> Machine:
    """Return this machine with other GPUs.

    Args:
        request: a GPU, such as `RTX 4090` or `8xH100`.
        here: this machine, whose cores and memory are kept.

    Raises:
        PlanError: if the GPU is not known, naming similar ones.
    """
    found = re.fullmatch(r"\s*(?:(\d{1,4})\s*[x*]\s*)?(.*?)\s*", request, re.IGNORECASE)
    count, name = (int(found[1] or 1), found[2]) if found else (1, request)
    if count < 1:
        raise PlanError(Problem("--gpu", f"`{request}` is no GPU", "write a number above 0, such as `8xH100`"))
    model = gpu_model(name)
    if model is None:
        raise PlanError(_unknown(name))
    gpus = tuple(model.installed(index) for index in range(count))
    return Machine(
        here.cpu, here.cores, here.cpu_bf16, here.memory_bytes, here.available_bytes, gpus, False, here.instruction_sets
    )


def gpu_model(name: str) -> GpuModel | None:
    """Return the model of a GPU by its full name or an alias, in any spelling; None if it is not known."""
    key = _key(name)
    return next((model for model in GPUS if key in map(_key, _names(model))), None)


def _names(model: GpuModel) -> Iterator[str]:
    """Return all names of a model: with and without the maker and the line."""
    for name in (model.name, *model.aliases):
        yield name
        yield name.replace("GeForce ", "").replace("Tesla ", "")


def _key(name: str) -> str:
    """Return a name in one spelling: `NVIDIA GeForce RTX 4090`, `rtx-4090` and `RTX4090` are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")


def _unknown(name: str) -> Problem:
    """Describe a GPU that is not in the table."""
    if _key(name).removeprefix("amd").removeprefix("instinct") in _NOT_CUDA:
        return Problem("--gpu", f"`{name}` is no CUDA device", "plans are made for NVIDIA's GPUs, such as `H100`")
    known = {_key(short): short for short in map(_short, GPUS)}
    hint = did_you_mean(_key(name), known, most=3, write=known.get)
    return Problem("--gpu", f"`{name}` is not a known GPU", hint or f"known: {', '.join(sorted(known.values()))}")


def _short(model: GpuModel) -> str:
    """Return the name that users write."""
    name = model.name.replace("GeForce ", "").replace("Tesla ", "")
    return model.aliases[0] if model.aliases and name.startswith(model.aliases[0]) else name
