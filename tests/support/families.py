"""Stand-ins for the bases and datasets of the shipped recipes: tiny models of the same family, rows of the same schema.

They are written below the current folder under their names on the hub, so that the recipes run unchanged.
"""

import gzip
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
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from lora_ns.model.files import ASSETS

QUESTION = "Ann has 3 plums and eats 1. How many are left?"
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "2"}]
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
    "m-a-p/Code-Feedback": {"id": 1, "messages": [*TURNS, *TURNS]},
    "tatsu-lab/alpaca": {
        "instruction": QUESTION,
        "input": "",
        "output": "2",
        "text": f"### Instruction:\n{QUESTION}\n\n### Response:\n2",
    },
    "databricks/databricks-dolly-15k": {
        "instruction": QUESTION,
        "context": "Ann likes plums.",
        "response": "2",
        "category": "closed_qa",
    },
    "teknium/OpenHermes-2.5": {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "2"}],
        "source": "test",
        "category": None,
        "system_prompt": None,
    },
    "HuggingFaceH4/ultrachat_200k": {"prompt": QUESTION, "prompt_id": "1", "messages": [*TURNS, *TURNS]},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": QUESTION,
        "prompt_id": "1",
        "chosen": TURNS,
        "rejected": [TURNS[0], {"role": "assistant", "content": "3"}],
        "messages": TURNS,
        "score_chosen": 8.5,
        "score_rejected": 6.0,
    },
    "trl-lib/kto-mix-14k": {"prompt": TURNS[:1], "completion": TURNS[1:], "label": True},
}
SPLITS = {
    "openai/gsm8k": ("main", ("train", "test")),
    "HuggingFaceH4/ultrachat_200k": ("default", ("train_sft", "test_sft")),
    "HuggingFaceH4/ultrafeedback_binarized": ("default", ("train_prefs", "test_prefs")),
    "trl-lib/kto-mix-14k": ("default", ("train", "test")),
}
"""Subset and splits, if they are not `train` of `default`."""
TREE = {
    "message_tree_id": "1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "1",
        "role": "prompter",
        "text": QUESTION,
        "replies": [{"message_id": "2", "role": "assistant", "text": "2", "rank": 0, "replies": []}],
    },
}
CONLL = "-DOCSTART- -X- -X- O\n\n" + "Ann NNP B-NP B-PER\nlikes VBZ B-VP O\nplums NNS B-NP O\n\n" * 24
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "stsb": (("sentence1", "sentence2"), ()),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
"""The text columns of each task, and its classes; a task without classes has scores."""
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}


def write_everything(folder: Path) -> None:
    """Write every base and dataset that the shipped recipes name."""
    write_decoder(folder / "mistralai/Mistral-7B-v0.1", MistralConfig, MistralForCausalLM, chat=False)
    write_decoder(folder / "HuggingFaceH4/mistral-7b-sft-beta", MistralConfig, MistralForCausalLM, chat=True)
    for size in ("7b", "70b"):
        write_decoder(folder / f"meta-llama/Llama-2-{size}-hf", LlamaConfig, LlamaForCausalLM, chat=False)
    write_decoder(folder / "Qwen/Qwen2.5-0.5B-Instruct", Qwen2Config, Qwen2ForCausalLM, chat=True)
    for name in ("deepseek-ai/deepseek-coder-6.7b-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        write_decoder(folder / name, LlamaConfig, LlamaForCausalLM, chat=True)
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"):
        write_decoder(folder / name, Qwen2Config, Qwen2ForCausalLM, chat=True)
    write_encoder(folder / "FacebookAI/roberta-base")
    for name in ROWS:
        write_data(folder / name, name)
    write_glue(folder / "nyu-mll/glue")
    with gzip.open(folder / "2023-04-12_oasst_ready.trees.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(TREE) + "\n" for _ in range(24))
    (folder / "conll2003").mkdir()
    for name in ("train", "testa"):
        (folder / f"conll2003/eng.{name}.conll").write_text(CONLL)
    row = {"prompt": QUESTION, "completion": "2"}
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(24)))


def write_decoder(folder: Path, config, model, chat: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    sizes = {**SIZES, "num_key_value_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    model(config(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)


def write_encoder(folder: Path) -> None:
    """Write a RoBERTa with its tokenizer."""
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
    """Write a dataset as it is on the hub: a card that names the files of each split, and the files."""
    subset, splits = SPLITS.get(name, ("default", ("train",)))
    (folder / subset).mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n{_config(subset, splits)}---\n")
    for split in splits:
        rows = [ROWS[name], *([{**ROWS[name], "label": False}] if "label" in ROWS[name] else [])]
        _write_split(folder / subset / f"{split}.jsonl", (rows * 24)[:24])


def write_glue(folder: Path) -> None:
    """Write GLUE: nine tasks with their own columns, classes and splits."""
    configs, infos = "", ""
    for task, (texts, classes) in GLUE.items():
        evaluations = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
        splits = ("train", *evaluations, "test")
        configs += _config(task, splits)
        infos += f"- config_name: {task}\n  features:\n"
        infos += "".join(f"  - {{name: {text}, dtype: string}}\n" for text in texts)
        names = ", ".join(f"'{number}': {name}" for number, name in enumerate(classes))
        infos += f"  - name: label\n    dtype: {f'{{class_label: {{names: {{{names}}}}}}}' if classes else 'float32'}\n"
        infos += "  - {name: idx, dtype: int32}\n"
        (folder / task).mkdir(parents=True)
        for split in splits:
            known = [number % len(classes) if classes else number % 11 / 2 for number in range(24)]
            labels = [-1] * 24 if split == "test" else known
            rows = [
                {**dict.fromkeys(texts, f"Plum {number}."), "label": label, "idx": number}
                for number, label in enumerate(labels)
            ]
            _write_split(folder / task / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}dataset_info:\n{infos}---\n")


def _config(subset: str, splits: tuple[str, ...]) -> str:
    files = "".join(f"  - {{split: {split}, path: {subset}/{split}.jsonl}}\n" for split in splits)
    return f"- config_name: {subset}\n  data_files:\n{files}"


def _write_split(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
