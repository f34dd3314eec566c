"""The distance of an adapted model from its base, token by token on the base's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.answers.opened import Trained, make_writer
from lora_ns.model.load import computing
from lora_ns.recipe.generation import Generation

if TYPE_CHECKING:
    from torch import Tensor


def drift_from_base(trained: Trained, prompts: Sequence[list[int]], generation: Generation) -> list[list[float]]:
    """Let the base answer prompts, and compare the model's predictions on these answers with the base's.

    Args:
        trained: a run whose adapter can be switched off.
        prompts: token ids of each prompt.
        generation: the settings of the base's answers, which are greedy.

    Returns:
        For each prompt, the divergence KL(base, model) summed over the tokens of the answer, in nats; their number; and
        1 if the most likely token is another one somewhere, so that the greedy answer changes, otherwise 0.
    """
    model = trained.model
    with model.disable_adapter():
        answers = make_writer(trained.manifest, model, trained.tokenizer).write(prompts, generation)
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer:
            found.append([0.0, 0.0, 0.0])
            continue
        with model.disable_adapter():
            base = _log_probabilities(trained, prompt, answer)
        own = _log_probabilities(trained, prompt, answer)
        divergence = float((base.exp() * (base - own)).sum().clamp(min=0))
        changed = bool((base.argmax(-1) != own.argmax(-1)).any())
        found.append([divergence, float(len(answer)), float(changed)])
    return found


def _log_probabilities(trained: Trained, prompt: list[int], answer: list[int]) -> Tensor:
    """The log-probabilities of all tokens at each place of an answer, of shape (tokens, vocabulary), in float32."""
    import torch

    model: Any = trained.model
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *answer]], device=device)
    with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
        logits = model(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)
