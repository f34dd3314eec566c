"""Predictions of a trained classifier: a class, labels or a score for each text, a tag for each word, or a reward."""

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


def prediction(trained: Trained, scores: Tensor) -> dict[str, Any]:
    """The prediction for one text, from its logits."""
    manifest = trained.manifest
    assert isinstance(manifest.recipe.objective, Classification)
    return manifest.recipe.objective.prediction(scores, manifest.labels, manifest.problem_type)


def baseline_of(manifest: Manifest) -> Baseline | None:
    """The constant baseline of a run; None for text generation, and for a run that recorded none."""
    if not manifest.baseline:
        return None
    return Baseline(baseline_kind(manifest), manifest.labels, manifest.baseline)


def baseline_kind(manifest: Manifest) -> ProblemType | None:
    """The problem type of a run's labels; None for token classification."""
    if manifest.recipe.objective.answers == "tags":
        return None
    return manifest.problem_type or "single_label_classification"


def logits(trained: Trained, inputs: Sequence[Mapping[str, list[int]]]) -> Tensor:
    """Logits for inputs that are padded here, in float32 on the CPU.

    The shape is (rows, labels), or (rows, tokens, labels) for token classification.
    """
    import torch

    trained.model.eval()
    trained.model.config.pad_token_id = trained.tokenizer.pad_token_id
    device = next(trained.model.parameters()).device
    batch = trained.tokenizer.pad([dict(row) for row in inputs], return_tensors="pt").to(device)
    with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
        found: Tensor = trained.model(**batch).logits.float().cpu()
    return found


def score_sequences(trained: Trained, items: Sequence[Sequence[list[int]]]) -> list[list[float]]:
    """The reward of each sequence of token ids, in lists as given."""
    found = iter(logits(trained, [{"input_ids": ids} for item in items for ids in item]).squeeze(-1).tolist())
    return [[next(found) for _ in item] for item in items]


# Words


@dataclass(frozen=True)
class Sentence:
    """Words to tag, with the encoding of the first window that fits into the model."""

    words: list[str]
    begins: Fitted

    def as_json(self) -> dict[str, Any]:
        """The sentence as JSON values."""
        return {"words": self.words, "begins": vars(self.begins)}

    @classmethod
    def of_json(cls, item: Mapping[str, Any]) -> Sentence:
        """The sentence from the values of `as_json`, also after a round trip through JSON, which makes keys strings."""
        begins = dict(item["begins"])
        begins["first"] = {int(word): place for word, place in begins["first"].items()}
        begins["tokenless"] = tuple(begins["tokenless"])
        return cls(item["words"], Fitted(**begins))


def tag_words(trained: Trained, encoder: WordEncoder, sentences: Sequence[Sentence]) -> list[list[tuple[str, float]]]:
    """The tag of each word and its probability.

    A sentence that is too long is read in windows, each of which starts at the first word that the previous one left
    out. A word that yields no token is tagged as outside any entity.
    """
    found: list[list[tuple[str, float]]] = [[] for _ in sentences]
    while pending := [number for number, one in enumerate(sentences) if len(found[number]) < len(one.words)]:
        parts = [_part(encoder, sentences[number], len(found[number])) for number in pending]
        read = iter(_best(trained, [part for part in parts if part.first]))
        for number, part in zip(pending, parts, strict=True):
            rest = len(sentences[number].words) - len(found[number])
            tags = next(read) if part.first else {}
            found[number] += [tags.get(word, _outside(trained)) for word in range(_taken(part, rest))]
    return found


def _part(encoder: WordEncoder, sentence: Sentence, done: int) -> Fitted:
    """The next window of a sentence, after the `done` words that are already tagged."""
    return encoder.encode(Tagged(tuple(sentence.words[done:]))) if done else sentence.begins


def _taken(part: Fitted, words: int) -> int:
    """Number of words that a window covers; the last word before a cut may be truncated, and is read again."""
    return max(part.first, default=0) or 1 if part.lost_words else words


def _outside(trained: Trained) -> tuple[str, float]:
    labels = trained.manifest.labels
    return (OUTSIDE if OUTSIDE in labels else labels[0]), 1.0


def _best(trained: Trained, parts: Sequence[Fitted]) -> list[dict[int, tuple[str, float]]]:
    """For each window, the best tag and its probability by word index."""
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
