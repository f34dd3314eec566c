"""Deterministic algorithms: a run repeats bit by bit on the same machine, or ends at an operation that has none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lora_ns.errors import Problem, RunError, first_line

_SET_BY_TRANSFORMERS = (
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"),
    "FLASH_ATTENTION_DETERMINISTIC",
)


@contextlib.contextmanager
def deterministic(is_asked: bool, seed: int) -> Iterator[None]:
    """Use deterministic algorithms only, as `full_determinism` of transformers does; afterwards all is as before.

    Enter it before the first operation on a GPU: cuBLAS reads its workspace configuration once.

    Args:
        is_asked: whether to do anything.
        seed: the seed of all random number generators.

    Raises:
        RunError: at an operation that has no deterministic implementation.
    """
    if not is_asked:
        yield
        return
    import torch
    from transformers import enable_full_determinism

    surroundings = {name: os.environ.get(name) for name in _SET_BY_TRANSFORMERS}
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    try:
        enable_full_determinism(seed)
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = f"an operation has no deterministic implementation: {first_line(error)}"
        raise RunError(Problem("", what, "remove it", key="training.full_determinism")) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        for name, value in surroundings.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
