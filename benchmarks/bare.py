"""The shortest script that fine-tunes the embedded base, for comparison in `first_step.py`."""

import json
import sys
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl


class Told(transformers.TrainerCallback):
    def on_step_end(self, *_, **__):
        print("step", file=sys.stderr, flush=True)


base, rows, output = sys.argv[1:]
torch.manual_seed(42)
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
pairs = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
turns = [(("user", pair["prompt"]), ("assistant", pair["completion"])) for pair in pairs]
texts = [[{"role": role, "content": content} for role, content in turn] for turn in turns]
encoded = [tokenizer.apply_chat_template(messages, return_dict=True) for messages in texts]
model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
data = datasets.Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in encoded])
arguments = trl.SFTConfig(
    output_dir=output,
    max_steps=1,
    per_device_train_batch_size=16,
    use_cpu=True,
    bf16=False,
    report_to="none",
    disable_tqdm=True,
    max_length=None,
    dataset_kwargs={"skip_prepare_dataset": True},
)
trl.SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[Told()]).train()
