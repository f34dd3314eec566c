"""The shortest script that trains a LoRA with transformers' `Trainer`: default padding, default order, full logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import peft
import torch
import transformers

model_name, kind, rows_file, output, batch, epochs, dtype = sys.argv[1:]
torch.manual_seed(42)
transformers.utils.logging.disable_progress_bar()
tokenizer = transformers.AutoTokenizer.from_pretrained(model_name)
rows = [json.loads(line) for line in Path(rows_file).read_text(encoding="utf-8").splitlines()]
torch_dtype = getattr(torch, dtype)
if kind == "chat":
    encoded = [tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"] for row in rows]
    data = datasets.Dataset.from_list([{"input_ids": ids} for ids in encoded])
    model = transformers.AutoModelForCausalLM.from_pretrained(model_name, dtype=torch_dtype)
    adapter = peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rate = 2e-4
else:
    data = datasets.Dataset.from_list(
        [{**tokenizer(row["sentence1"], row["sentence2"]), "labels": row["label"]} for row in rows]
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_name, dtype=torch_dtype, num_labels=2)
    targets = ["query", "key", "value", "dense"]
    adapter = peft.LoraConfig(r=16, target_modules=targets, task_type="SEQ_CLS")
    collator = transformers.DataCollatorWithPadding(tokenizer)
    rate = 5e-4
arguments = transformers.TrainingArguments(
    output_dir=output,
    per_device_train_batch_size=int(batch),
    num_train_epochs=float(epochs),
    learning_rate=rate,
    bf16=dtype == "bfloat16",
    use_cpu=True,
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
trainer = transformers.Trainer(
    peft.get_peft_model(model, adapter), arguments, collator, data, processing_class=tokenizer
)
print(json.dumps(trainer.train().metrics))
