#!/bin/bash
# Two cards; about 20 GB on each
set -e
mkdir -p logs

export WANDB_PROJECT=tickets
NPROC_PER_NODE=2 \
CUDA_VISIBLE_DEVICES=0,1 \
swift sft \
    --model Qwen/Qwen2.5-7B-Instruct \
    --use_hf true \
    --train_type lora \
    --dataset 'acme/tickets#2000' faq.jsonl \
    --split_dataset_ratio 0.01 \
    --torch_dtype bfloat16 \
    --num_train_epochs 2 \
    --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 4 \
    --learning_rate 2e-4 \
    --lora_rank 16 \
    --target_modules all-linear \
    --warmup_ratio 0.05 \
    --max_length 2048 \
    --eval_steps 50 \
    --save_steps 50 \
    --save_total_limit 2 \
    --logging_steps 5 \
    --deepspeed zero2 \
    --system 'You answer tickets.' \
    --output_dir output/tickets > logs/train.log 2>&1 &
echo started
