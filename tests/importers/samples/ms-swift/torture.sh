swift sft --dataset a#x --columns '{"a": ["query"]}' --interleave_prob x y --model 3 --deepspeed --report_to --lora_rank 1e400 --eval_steps 0.1 --split_dataset_ratio 0.5
