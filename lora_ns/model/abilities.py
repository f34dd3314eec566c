"""Tasks that a base can be trained for, by its files. Imports neither torch nor transformers."""

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
"""Encoder families by `model_type`."""


@dataclass(frozen=True)
class Abilities:
    """A base and its abilities."""

    base: Base

    @property
    def kind(self) -> BaseKind:
        """Kind of model by its attention: causal, encoder or encoder-decoder."""
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
        """True if the model predicts the next token."""
        return self.kind == "causal"

    @property
    def description(self) -> str:
        """Description for messages, such as "an encoder (BertForMaskedLM)"."""
        names = self.base.config.get("architectures") or [str(self.base.config.get("model_type", "unknown"))]
        kinds = {"causal": "a causal language model", "encoder": "an encoder"}
        return f"{kinds.get(self.kind, 'an encoder-decoder')} ({names[0]})"

    @cached_property
    def chat_template(self) -> str | None:
        """Chat template of the tokenizer, all of them if there are several; empty if there is none.

        None if the tokenizer is in a GGUF header, which is not read here.

        Raises:
            ModelError: if a tokenizer file is broken.
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
        """True if the tokenizer has this special token."""
        return token in self._tokens

    def lengths(self, texts: Sequence[str], short: int) -> list[int] | None:
        """Count the tokens of each text; None if `tokenizers` is not installed or cannot read the tokenizer.

        Args:
            texts: texts to count.
            short: size in bytes up to which a text is not tokenised; its size counts as its number of tokens.
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
        except Exception:  # any error in the file, which is reported when the base is loaded
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        sizes = [len(text.encode()) for text in texts]
        return [
            size if size <= short else len(tokenizer.encode(text).ids) for text, size in zip(texts, sizes, strict=True)
        ]
