"""Tokenizers and the rows of recipes as a process sees them, to compare one that has torch with one that hides it.

    python rows_alone.py TOKENIZERS RECIPES OUTPUT

writes what the process finds in the folders of tokenizers and in the recipes of another folder, and what it imported.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import prepare_tokenizers
from lora_ns.model.tokenizer import choose_pad_token, load_tokenizer, stop_token_ids
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.validate import audit, prepare_rows, show_rows

TEXTS = [
    "plum",
    " two  words\n",
    "éclair, 你好 🙂\u200d",
    "<x> </s><|im_end|>[SEP]",
    "",
    "A" * 70,
    "\t1,234.5\r\n",
    "don't",
]
CHAT = [{"role": "user", "content": "Say plum."}, {"role": "assistant", "content": "plum"}]


def tokens_of(folder: Path) -> object:
    """What a tokenizer makes of texts and of a chat, and its special tokens."""
    tokenizer = load_tokenizer(folder)
    found = {
        "class": type(tokenizer).__name__,
        "texts": [dict(tokenizer(text)) for text in TEXTS],
        "bare": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
        "back": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in TEXTS],
        "words": dict(tokenizer(["two", "words"], is_split_into_words=True)),
        "stops": stop_token_ids(tokenizer, folder),
    }
    choose_pad_token(tokenizer, stop_token_ids(tokenizer, folder))
    found["special"] = [tokenizer.special_tokens_map, tokenizer.all_special_ids, len(tokenizer), tokenizer.padding_side]
    found["padded"] = {} if tokenizer.pad_token is None else dict(tokenizer(TEXTS, padding=True))
    if tokenizer.chat_template is not None:
        found["chat"] = tokenizer.apply_chat_template(CHAT, tokenize=False)
        found["asked"] = dict(tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=True))
    return found


def rows_of(recipe: Path, only_rows: bool) -> object:
    """The sequences of the rows of a recipe, and what `validate --data` reports about them."""
    machine = detect()
    prepared = prepare_rows(load_recipe(recipe), machine, SilentObserver(), only_rows)
    parts = [part for part in (prepared.train, prepared.eval) if part]
    return {
        "sequences": [(one.where, one.row(), one.trained) for part in parts for one in part.sequences],
        "problems": [problem for part in parts for problem in part.problems],
        "audit": asdict(audit(prepared, machine)),
        "shown": [asdict(shown) for shown in show_rows(prepared, 3, None)],
    }


def found_in(tokenizers: Path, recipes: Path, only_rows: bool) -> dict[str, object]:
    """Everything in two folders, as plain values."""
    found = {folder.name: tokens_of(folder) for folder in sorted(tokenizers.iterdir())}
    found |= {recipe.stem: rows_of(recipe, only_rows) for recipe in sorted(recipes.glob("*.toml"))}
    plain: dict[str, object] = json.loads(json.dumps(found, default=repr))
    return plain


if __name__ == "__main__":
    prepare_tokenizers()
    answer = {"found": found_in(Path(sys.argv[1]), Path(sys.argv[2]), only_rows=True), "modules": sorted(sys.modules)}
    Path(sys.argv[3]).write_text(json.dumps(answer))
