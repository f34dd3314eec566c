"""The base class of objectives that reinforce completions by reward functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from lora_ns.objectives.base import Counted
from lora_ns.objectives.generation import GenerationObjective
from lora_ns.objectives.prompt_trainer import rewarded_trainer_class
from lora_ns.objectives.watches import EntropyCollapse, LengthCollapse, LengthHacking, Watch
from lora_ns.rewards import AnyReward, RewardFunction
from lora_ns.table import Conflict, NonNegativeInt, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GroupSize = Annotated[int, Field(ge=2)]


class RewardedObjective(GenerationObjective):
    """An objective that samples a group of completions for each prompt, and makes the better ones likelier."""

    library: ClassVar[str] = "TRL"
    disables_dropout: ClassVar[bool] = True
    copies_adapter: ClassVar[bool] = True
    shows: ClassVar[Mapping[str, str]] = {
        "reward": "reward",
        "frac_reward_zero_std": "without signal",
        "completions/mean_length": "length",
        "entropy": "entropy",
    }
    minimum: ClassVar[Mapping[str, Any]] = {"rewards": [{"name": "exact"}]}

    rewards: Annotated[tuple[AnyReward, ...], Field(min_length=1)]
    """Reward functions, each in a table of its own; their weighted sum is the reward."""
    allow_code: bool = False
    """Allow `code` rewards, which run the model's programs in a sandbox, and `python` rewards, which run your own code
    in the training process, without one."""
    num_generations: GroupSize = 8
    """Completions for each prompt, whose rewards are compared with one another."""
    num_generations_eval: PositiveInt = 1
    """Completions for each prompt in an evaluation."""
    num_iterations: PositiveInt = 1
    """Times that each completion is learned from."""
    epsilon: PositiveFloat = 0.2
    """Change of a token's probability beyond which its ratio is clipped; only with `num_iterations` above 1."""
    epsilon_high: PositiveFloat | None = None
    """Upper bound of the change; default: `epsilon`. DAPO recommends 0.28."""
    mask_truncated_completions: bool = False
    """Leave completions without an end out of the loss."""
    preflight_prompts: NonNegativeInt = 32
    """Prompts whose completions are scored before the first step, to see if the rewards differ; 0 to skip it."""

    @property
    def reward_functions(self) -> Sequence[RewardFunction]:
        """Reward functions that judge completions."""
        return self.rewards

    @property
    def group_size(self) -> int:
        """Completions for each prompt."""
        return self.num_generations

    @property
    def eval_group_size(self) -> int:
        """Completions for each prompt in an evaluation."""
        return self.num_generations_eval

    @property
    def usual_batch(self) -> int:
        """Eight prompts."""
        return 8 * self.num_generations

    @property
    def rows_for_a_step(self) -> int:
        """The prompts of a step, and those that are looked at before it."""
        return max(super().rows_for_a_step, self.preflight_prompts)

    def micro_batches(self, rows: int, at_once: int, accumulation: int, drops_last: bool) -> int:
        """Micro-batches of an epoch: TRL drops prompts that do not fill a step."""
        del drops_last
        prompts = at_once * accumulation // self.num_generations
        return rows // prompts * accumulation * self.num_iterations if prompts else 0

    def conflicts(self) -> Iterator[Conflict]:
        """Rewards that cannot work, and code that is not allowed."""
        yield from super().conflicts()
        for number, reward in enumerate(self.rewards):
            key = self.key(f"rewards.{number}")
            yield from reward.conflicts(key)
            if not reward.weight:
                yield Conflict((f"{key}.weight",), "a reward with the weight 0 has no effect", "remove it")
            if reward.key_of_code and not self.allow_code:
                what = f"`{reward.name}` runs {reward.runs_code}"
                remedy = f"write `allow_code = true` in `[{self.toml}]` to allow it"
                yield Conflict((f"{key}.{reward.key_of_code}",), what, remedy)
        if "allow_code" in self.model_fields_set and not any(reward.key_of_code for reward in self.rewards):
            what = "`allow_code` has no effect without a `code` or `python` reward"
            yield Conflict((self.key("allow_code"),), what, "remove it")
        for name in ("epsilon", "epsilon_high"):
            if self._is_on_policy and name in self.model_fields_set:
                what = f"`{name}` has no effect with `num_iterations = 1`: nothing has changed since the generation"
                yield Conflict((self.key(name),), what, "remove it")

    @property
    def _is_on_policy(self) -> bool:
        """True if each completion is learned from once, by the model that wrote it, so that no ratio is clipped."""
        return self.num_iterations == 1

    def watches(self) -> Sequence[Watch]:
        """Watches of entropy and length, and of rewards that rise with the length alone."""
        return EntropyCollapse(), LengthCollapse(), LengthHacking()

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """The keys of this table, by TRL's names."""
        names = ("num_generations", "num_generations_eval", "num_iterations", "epsilon", "epsilon_high")
        return {
            **super().arguments(row_parts),
            **{name: getattr(self, name) for name in names},
            "mask_truncated_completions": self.mask_truncated_completions,
            "reward_weights": [reward.weight for reward in self.rewards],
        }

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's trainer, for prompts that are already tokenised."""
        return rewarded_trainer_class(self._upstream_class(), counted)

    def _upstream_class(self) -> Any:
        """The trainer class of TRL."""
        raise NotImplementedError

    def trainer_kwargs(
        self, _model: Any, _tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]
    ) -> dict[str, Any]:
        """No further arguments; the reward functions are opened elsewhere."""
        return {}


def numbered(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that occur before."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
