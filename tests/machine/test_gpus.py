"""GPUs that one can plan for."""

import pytest

from lora_ns.errors import PlanError
from lora_ns.machine.gpus import GPUS, gpu_model, machine_with
from lora_ns.machine.hardware import Machine

HERE = Machine("cpu", 4, True, 64 * 10**9, 60 * 10**9, mps=True)


@pytest.mark.parametrize(
    ("request_", "name", "count"),
    [
        ("RTX 4090", "GeForce RTX 4090", 1),
        ("4090", "GeForce RTX 4090", 1),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090", 1),
        ("rtx-4090-laptop", "GeForce RTX 4090 Laptop GPU", 1),
        ("A100-80GB", "A100-SXM4-80GB", 1),
        ("A100-40GB", "A100-SXM4-40GB", 1),
        ("8xH100", "H100 80GB HBM3", 8),
        ("2 x L40S", "L40S", 2),
        ("4*t4", "Tesla T4", 4),
        ("6000 Ada", "RTX 6000 Ada Generation", 1),
    ],
)
def test_a_gpu_is_found_by_any_of_its_names(request_, name, count):
    machine = machine_with(request_, HERE)
    assert [gpu.name for gpu in machine.gpus] == [name] * count
    assert [gpu.index for gpu in machine.gpus] == list(range(count))
    assert (machine.accelerator, machine.cores, machine.memory_bytes) == ("cuda", 4, 64 * 10**9)


@pytest.mark.parametrize("model", GPUS, ids=lambda model: model.name)
def test_a_model_is_found_as_nvidia_smi_calls_it_and_has_sizes_of_its_kind(model):
    assert gpu_model(f"NVIDIA {model.name}") is model
    assert all(gpu_model(alias) is model for alias in model.aliases)
    (gpu,) = machine_with(model.name, HERE).gpus
    assert 0.95 * model.memory_bytes < gpu.free_bytes < model.memory_bytes == gpu.memory_bytes
    assert gpu.bf16 == (model.capability[0] >= 8)
    assert 8 * 10**9 <= model.memory_bytes <= 200 * 10**9
    assert 20 <= model.teraflops <= 2500
    assert 60 <= model.watts <= 1000
    assert model.watts / 5 < model.gigabytes_per_second < 8001


def test_no_two_models_share_a_name():
    names = [name.lower() for model in GPUS for name in {model.name, *model.aliases}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ("RTX 4091", "`RTX 4091` is not a known GPU (did you mean `RTX 4090`"),
        ("banana", "`banana` is not a known GPU (known: "),
        ("MI300X", "`MI300X` is no CUDA device"),
        ("AMD Instinct MI300X", "is no CUDA device"),
        ("0xH100", "`0xH100` is no GPU"),
        ("", "`` is not a known GPU (known: "),
    ],
)
def test_an_unknown_gpu_is_refused_with_similar_names(request_, told):
    with pytest.raises(PlanError) as caught:
        machine_with(request_, HERE)
    assert str(caught.value).startswith("--gpu: ")
    assert told in str(caught.value)
    assert caught.value.exit_code == 2
