"""What other tools call a key of a recipe."""

from __future__ import annotations

from collections.abc import Mapping

FOREIGN_KEYS: Mapping[str, str] = {
    "alpha": "peft.lora_alpha",
    "base_model": "model.name_or_path",
    "batch_size": "training.global_batch_size",
    "cutoff_len": "sft.max_seq_length",
    "data_path": "dataset.path",
    "datasets": "dataset.path",
    "dropout": "peft.lora_dropout",
    "epochs": "training.num_train_epochs",
    "finetuning_type": "peft.method",
    "load_in_4bit": "quantization.method",
    "load_in_8bit": "quantization.method",
    "lora_target": "peft.target_modules",
    "lora_target_modules": "peft.target_modules",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "max_length": "sft.max_seq_length",
    "micro_batch_size": "training.per_device_train_batch_size",
    "model_id": "model.name_or_path",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "num_epochs": "training.num_train_epochs",
    "optimizer": "training.optim",
    "r": "peft.lora_r",
    "rank": "peft.lora_r",
    "sample_packing": "sft.packing",
    "sequence_len": "sft.max_seq_length",
    "torch_dtype": "model.dtype",
    "train_file": "dataset.path",
    "validation_file": "dataset.eval_path",
}
"""What other tools call a key, and its name here."""
