"""The tasks that a base can be trained for, as far as its files say it. Imports neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from lora_ns.errors import ModelError
from lora_ns.files.reading import LARGEST_OBJECT, LARGEST_RECIPE, read_json, read_text
from lora_ns.model.files import Base
from lora_ns.model.folder import check_tokenizer_files, read_object

BaseKind = Literal["causal", "encoder", "encoder-decoder"]

_ENCODERS = frozenset(
    {
        *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2"),
        *("distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "funnel", "ibert", "layoutlm"),
        *("longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert"),
        *("nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert"),
        *("xlm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Families of models that read a text as a whole, by their `model_type`."""


@dataclass(frozen=True)
class Abilities:
    """A base, and the tasks that it can be trained for."""

    base: Base

    @property
    def kind(self) -> BaseKind:
        """Kind of model, by the part of a text that each token sees."""
        config = self.base.config
        if config.get("is_encoder_decoder"):
            return "encoder-decoder"
        names = config.get("architectures") or []
        is_masked = any(name.endswith("ForMaskedLM") for name in names)
        return "encoder" if is_masked or self._is_encoder else "causal"

    @property
    def _is_encoder(self) -> bool:
        return self.base.config.get("model_type") in _ENCODERS and not self.base.config.get("is_decoder")

    @property
    def writes_text(self) -> bool:
        """True if it predicts the next token."""
        return self.kind == "causal"

    @property
    def told(self) -> str:
        """Its kind as messages say it, such as "an encoder (BertForMaskedLM)"."""
        names = self.base.config.get("architectures") or [str(self.base.config.get("model_type", "unknown"))]
        kinds = {"causal": "a causal language model", "encoder": "an encoder"}
        return f"{kinds.get(self.kind, 'an encoder-decoder')} ({names[0]})"

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template of its tokenizer, of several all together; empty if there is none.

        None if it is in a GGUF header, which is not read here.

        Raises:
            ModelError: if a file of the tokenizer is broken.
        """
        folder = self.base.path
        if self.base.gguf_file and not self.base.has_tokenizer:
            return None
        check_tokenizer_files(folder)
        if (folder / "chat_template.jinja").is_file():
            return read_text(folder / "chat_template.jinja", ModelError, most=LARGEST_RECIPE)
        found = ""
        for name in ("chat_template.json", "tokenizer_config.json"):
            if not found and (folder / name).is_file():
                template = read_object(folder / name).get("chat_template")
                found = template if isinstance(template, str) else json.dumps(template) if template else ""
        return found

    @cached_property
    def _tokens(self) -> frozenset[str]:
        file = self.base.path / "tokenizer.json"
        if not file.is_file():
            return frozenset()
        content = read_json(file, ModelError, most=LARGEST_OBJECT)
        added = content.get("added_tokens", []) if isinstance(content, dict) else []
        return frozenset(str(token["content"]) for token in added if isinstance(token, dict) and "content" in token)

    def has_token(self, token: str) -> bool:
        """True if the tokenizer has a special token of this name."""
        return token in self._tokens

    def lengths(self, texts: Sequence[str], short: int) -> list[int] | None:
        """The tokens of each text; None where `tokenizers` is not installed or cannot read the tokenizer.

        Args:
            texts: the texts to count.
            short: bytes up to which a text is not looked at: it has no more tokens than bytes.
        """
        file = self.base.path / "tokenizer.json"
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return None
        if not file.is_file():
            return None
        try:
            tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception:  # whatever its file has: who loads the base tells it
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        sizes = [len(text.encode()) for text in texts]
        return [
            size if size <= short else len(tokenizer.encode(text).ids) for text, size in zip(texts, sizes, strict=True)
        ]
