"""Stand-ins for what the shipped recipes name: tiny bases of the same family, and rows of the same schema.

They are written under the hub's names below the current folder, so that the recipes run as they are shipped.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from lora_ns.basemodel import ASSETS

QUESTION = "Ann has 3 plums and eats 1. How many are left?"
ROWS = {
    "openai/gsm8k": {"question": QUESTION, "answer": "She has 3 - 1 = <<3-1=2>>2.\n#### 2"},
    "meta-math/MetaMathQA": {
        "type": "GSM_Rephrased",
        "query": QUESTION,
        "original_question": QUESTION,
        "response": "3 - 1 = 2. The answer is: 2",
    },
    "m-a-p/CodeFeedback-Filtered-Instruction": {
        "query": "Add two numbers in Python.",
        "answer": "def add(a, b):\n    return a + b",
        "resource": "test",
        "lang": "python",
    },
    "nyu-mll/glue": {"sentence1": "A plum fell.", "sentence2": "A plum dropped.", "label": 1, "idx": 0},
}
SPLITS = {
    "openai/gsm8k": ("main", ("train", "test")),
    "meta-math/MetaMathQA": ("default", ("train",)),
    "m-a-p/CodeFeedback-Filtered-Instruction": ("default", ("train",)),
    "nyu-mll/glue": ("mrpc", ("train", "validation", "test")),
}
GLUE_FEATURES = """\
dataset_info:
- config_name: mrpc
  features:
  - {name: sentence1, dtype: string}
  - {name: sentence2, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': not_equivalent, '1': equivalent}}}
  - {name: idx, dtype: int32}
"""
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}


def write_everything(folder: Path) -> None:
    """All that the shipped recipes name."""
    _write_decoder(folder / "mistralai/Mistral-7B-v0.1", MistralConfig, MistralForCausalLM, chat=False)
    _write_decoder(folder / "meta-llama/Llama-2-7b-hf", LlamaConfig, LlamaForCausalLM, chat=False)
    for name in ("deepseek-ai/deepseek-coder-6.7b-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        _write_decoder(folder / name, LlamaConfig, LlamaForCausalLM, chat=True)
    write_encoder(folder / "FacebookAI/roberta-base")
    for name in ROWS:
        write_data(folder / name, name)
    row = {"prompt": QUESTION, "completion": "2"}
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(24)))


def _write_decoder(folder: Path, config, model, chat: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    sizes = {**SIZES, "num_key_value_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    model(config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)


def write_encoder(folder: Path) -> None:
    """A RoBERTa with a tokenizer of its own."""
    tokens = Tokenizer(models.BPE(unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    tokens.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=512,
        **{f"{name}_token": token for name, token in names.items()},
    )
    tokenizer.save_pretrained(folder)
    sizes = {**SIZES, "max_position_embeddings": 514}
    RobertaForMaskedLM(RobertaConfig(vocab_size=len(tokenizer), type_vocab_size=1, **sizes)).save_pretrained(folder)


def write_data(folder: Path, name: str) -> None:
    """A data set as the hub has it: a card that names the files of each split, and the files."""
    subset, splits = SPLITS[name]
    files = "".join(f"  - {{split: {split}, path: {subset}/{split}.jsonl}}\n" for split in splits)
    features = GLUE_FEATURES if subset == "mrpc" else ""
    (folder / subset).mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n{files}{features}---\n")
    for split in splits:
        rows = [dict(ROWS[name]) for _ in range(24)]
        if subset == "mrpc":
            for number, row in enumerate(rows):
                row |= {"label": -1 if split == "test" else number % 2, "idx": number}
        (folder / subset / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
