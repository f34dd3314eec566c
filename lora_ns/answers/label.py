"""What a trained classifier says of texts: a class, labels, a score, or the tags of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.answers.opened import Trained
from lora_ns.data.encode_labels import Fitted, WordEncoder
from lora_ns.formats import ProblemType, Tagged
from lora_ns.model.load import computing
from lora_ns.objectives import Classification
from lora_ns.objectives.baselines import Baseline
from lora_ns.objectives.targets import OUTSIDE
from lora_ns.run.manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor


def said_of(trained: Trained, scores: Tensor) -> dict[str, Any]:
    """What the scores of a text say."""
    manifest = trained.manifest
    assert isinstance(manifest.recipe.objective, Classification)
    return manifest.recipe.objective.said(scores, manifest.labels, manifest.problem_type)


def baseline_of(manifest: Manifest) -> Baseline | None:
    """The constant answers of a run; None for text, and for a run that wrote none down."""
    if not manifest.baseline:
        return None
    return Baseline(baseline_kind(manifest), manifest.labels, manifest.baseline)


def baseline_kind(manifest: Manifest) -> ProblemType | None:
    """What a label of a run is; None for the tags of words."""
    if manifest.recipe.objective.answers == "tags":
        return None
    return manifest.problem_type or "single_label_classification"


def logits(trained: Trained, inputs: Sequence[Mapping[str, list[int]]]) -> Tensor:
    """What the model gives for inputs that are padded here, in float32 on the CPU: (rows, labels), or by token."""
    import torch

    trained.model.eval()
    trained.model.config.pad_token_id = trained.tokenizer.pad_token_id
    device = next(trained.model.parameters()).device
    batch = trained.tokenizer.pad([dict(row) for row in inputs], return_tensors="pt").to(device)
    with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
        found: Tensor = trained.model(**batch).logits.float().cpu()
    return found


# Words


@dataclass(frozen=True)
class Sentence:
    """Words to tag, encoded as far as one part of the model's goes."""

    words: list[str]
    begins: Fitted

    def as_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {"words": self.words, "begins": vars(self.begins)}

    @classmethod
    def of_json(cls, item: Mapping[str, Any]) -> Sentence:
        """What `as_json` gave, even if it was written since: JSON's keys are texts."""
        begins = dict(item["begins"])
        begins["first"] = {int(word): place for word, place in begins["first"].items()}
        begins["tokenless"] = tuple(begins["tokenless"])
        return cls(item["words"], Fitted(**begins))


def tag_words(trained: Trained, encoder: WordEncoder, sentences: Sequence[Sentence]) -> list[list[tuple[str, float]]]:
    """For each word its tag and the probability of it.

    A sentence that is too long is read in parts: each begins with the first word that the part before left out. A word
    that becomes no token is outside of everything.
    """
    found: list[list[tuple[str, float]]] = [[] for _ in sentences]
    while open_ := [number for number, one in enumerate(sentences) if len(found[number]) < len(one.words)]:
        parts = [_part(encoder, sentences[number], len(found[number])) for number in open_]
        read = iter(_best(trained, [part for part in parts if part.first]))
        for number, part in zip(open_, parts, strict=True):
            rest = len(sentences[number].words) - len(found[number])
            tags = next(read) if part.first else {}
            found[number] += [tags.get(word, _outside(trained)) for word in range(_taken(part, rest))]
    return found


def _part(encoder: WordEncoder, sentence: Sentence, done: int) -> Fitted:
    """The next part of a sentence of which so many words are tagged."""
    return encoder.encode(Tagged(tuple(sentence.words[done:]))) if done else sentence.begins


def _taken(part: Fitted, words: int) -> int:
    """How many of the words were read; the last one before a cut may have lost a part of itself, and is read again."""
    return max(part.first, default=0) or 1 if part.lost_words else words


def _outside(trained: Trained) -> tuple[str, float]:
    labels = trained.manifest.labels
    return (OUTSIDE if OUTSIDE in labels else labels[0]), 1.0


def _best(trained: Trained, parts: Sequence[Fitted]) -> list[dict[int, tuple[str, float]]]:
    """For each sentence, by the number of a word its best tag and the probability of it."""
    if not parts:
        return []
    labels, padded_left = trained.manifest.labels, trained.tokenizer.padding_side == "left"
    found = []
    for part, scores in zip(parts, logits(trained, [part.inputs for part in parts]), strict=True):
        shift = len(scores) - part.tokens if padded_left else 0
        values, numbers = scores.softmax(-1).max(-1)
        places = {word: place + shift for word, place in part.first.items()}
        found.append({word: (labels[int(numbers[at])], float(values[at])) for word, at in places.items()})
    return found
