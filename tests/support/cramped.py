"""A model that runs out of memory, as torch's allocator reports it, when too much is computed at once."""

from typing import Any

from lora_ns.run.observer import SilentObserver

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"


class Cramped(SilentObserver):
    """An observer whose run has memory for some rows or, if they are packed, tokens at once.

    In training, half of the backward pass has been done when memory runs out; in an evaluation, half of the forward
    pass.
    """

    def __init__(
        self, train: int = 10**9, evaluation: int = 10**9, from_step: int = 0, packed: bool = False, sides: int = 1
    ) -> None:
        self.train, self.evaluation, self.from_step, self.packed = train * sides, evaluation * sides, from_step, packed
        self.failures = 0
        self.warnings: list[str] = []
        self.trainer: Any = None

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def ready(self, trainer: Any) -> None:
        self.trainer = trainer
        layers = next(value for name, value in trainer.model.named_modules() if name.endswith((".layers", ".layer")))
        layers[len(layers) // 2].register_forward_hook(self._look)

    def _look(self, module: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        size, steps = states.shape[self.packed], self.trainer.state.global_step
        if not module.training and size > self.evaluation:
            self._fail()
        if module.training and states.requires_grad and size > self.train and steps >= self.from_step:
            states.register_hook(self._fail)

    def _fail(self, *_: Any) -> None:
        self.failures += 1
        raise RuntimeError(NO_MEMORY)

    @property
    def told(self) -> list[str]:
        return [text for text in self.warnings if "ran out of memory" in text]
