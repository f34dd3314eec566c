"""An observer that makes the gradient of some steps NaN."""

from typing import Any

from lora_ns.run.observer import SilentObserver


class Poisoner(SilentObserver):
    """Makes the gradient of some steps NaN, and keeps the warnings."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.warnings, self.step_now = steps, list[str](), 0

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def ready(self, trainer: Any) -> None:
        import transformers

        poisoner = self

        class Clock(transformers.TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                poisoner.step_now = state.global_step + 1

        trainer.add_callback(Clock())
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda grad: grad * (float("nan") if self.step_now in self.steps else 1.0))
