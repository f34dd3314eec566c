"""The base class of objectives that learn from their own completions of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.formats import Prompt
from lora_ns.objectives.base import TEXT_AND_LABEL
from lora_ns.objectives.pairs import PairObjective
from lora_ns.objectives.text import TextObjective
from lora_ns.table import Conflict, Fraction, Name, NonNegativeInt, PositiveFloat, PositiveInt, Probability

TopP = Annotated[float, Field(gt=0.0, le=1.0)]


class GenerationObjective(TextObjective):
    """An objective whose training steps generate completions of prompts, and learn from these."""

    examples: ClassVar[tuple[type, ...]] = (Prompt,)
    inert: ClassVar[tuple[str, ...]] = (*TEXT_AND_LABEL, "dataset.completion_template", "training.group_by_length")
    divides_weights: ClassVar[bool | str] = "generation has been tried on whole weights only"
    scores_every_token: ClassVar[bool] = False
    generates: ClassVar[bool] = True

    on_overflow: Literal["error", "drop", "truncate-prompt"] = "error"
    """Rows whose prompt leaves too little room: refuse, drop, or truncate the start of the prompt."""
    on_stop_token: Literal["keep"] = "keep"
    """Prompts may contain stop tokens, as conversations of several turns do."""
    max_completion_length: PositiveInt = 256
    """Most tokens of a completion; `max_seq_length` covers prompt and completion."""
    temperature: PositiveFloat = 1.0
    """Temperature of the sampling: above 1 the completions differ more, below 1 less."""
    top_p: TopP = 1.0
    """Sample from the most likely tokens that together reach this probability."""
    top_k: NonNegativeInt = 0
    """Sample from this many most likely tokens; 0 for all."""
    min_p: Probability | None = None
    """Least probability of a token, as a share of the most likely one's."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, makes tokens that have already occurred less likely."""
    use_vllm: bool = False
    """Generate with vLLM instead of transformers; needs the package `vllm` and a GPU."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """Run vLLM on the GPUs that train, or use a server that `trl vllm-serve` started."""
    vllm_server_base_url: Name | None = None
    """Address of the server, such as `http://127.0.0.1:8000`."""
    vllm_gpu_memory_utilization: Fraction = 0.3
    """Share of a GPU's memory for a colocated vLLM."""
    vllm_from_merged: bool = False
    """Allow vLLM over a quantised base, though it then generates from a merged copy, not from the model that learns."""

    def conflicts(self) -> Iterator[Conflict]:
        """A completion that leaves no room for a prompt, and keys of vLLM without it, or of the other mode."""
        yield from super().conflicts()
        if self.max_completion_length >= self.max_seq_length:
            keys = (self.key("max_seq_length"), self.key("max_completion_length"))
            what = f"`max_completion_length = {self.max_completion_length}` leaves no room for a prompt"
            yield Conflict(keys, what, f"lower it, or raise `max_seq_length` above {self.max_completion_length}")
        modes = {"vllm_server_base_url": "server", "vllm_gpu_memory_utilization": "colocate"}
        for name in ("vllm_mode", *modes, "vllm_from_merged"):
            if name not in self.model_fields_set:
                continue
            if not self.use_vllm:
                yield Conflict((self.key(name),), f"`{name}` has no effect without `use_vllm = true`", "remove it")
            elif modes.get(name, self.vllm_mode) != self.vllm_mode:
                what = f'`{name}` has no effect with `vllm_mode = "{self.vllm_mode}"`'
                yield Conflict((self.key("vllm_mode"), self.key(name)), what, "remove it")
        if self.use_vllm and self.vllm_mode == "server" and self.vllm_server_base_url is None:
            yield Conflict((self.key("vllm_mode"),), "no address of the server", "write `vllm_server_base_url`")

    @property
    def uses_vllm(self) -> bool:
        """True if vLLM generates completions."""
        return self.use_vllm

    @property
    def rows_for_a_step(self) -> int:
        """The prompts of a step: fewer are refused."""
        return max(super().rows_for_a_step, self.usual_batch // self.group_size)

    @property
    def completion_length(self) -> int:
        """Tokens of `max_seq_length` that are kept free for a completion."""
        return self.max_completion_length

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """The rate of objectives for pairs: 1e-5 for LoRA on a 7B base, ten times TRL's for full fine-tuning."""
        return PairObjective.usual_rate(typical, width)

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Sums with their results, which rewards compare completions with."""
        sums = (("2 + 3", "5"), ("4 + 1", "5"), ("7 + 2", "9"), ("6 + 3", "9"))
        return [{"prompt": f"What is {terms}?", "answer": result} for terms, result in sums]

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Arguments of `transformers.GenerationConfig`."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {"max_new_tokens": self.max_completion_length, **{name: getattr(self, name) for name in names}}

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """The keys about generation, and arguments that make TRL use the rows unchanged."""
        names = ("max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        of_vllm = ("vllm_mode", "vllm_server_base_url", "vllm_gpu_memory_utilization") if self.use_vllm else ()
        return {
            **{name: getattr(self, name) for name in (*names, *of_vllm)},
            "use_vllm": self.use_vllm,
            "remove_unused_columns": False,
            "log_completions": False,
            "disable_dropout": self.disables_dropout,
        }
