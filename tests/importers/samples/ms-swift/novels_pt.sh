swift pt --model acme/base-1b --tuner_type lora --dataset novels.jsonl --truncation_strategy split \
  --max_length 1024 --quant_bits 4 --quant_method bnb --bnb_4bit_use_double_quant false --lorap_lr_ratio 8
