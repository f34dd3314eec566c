# one card
CUDA_VISIBLE_DEVICES=0 unsloth train --model acme/harbor-4b --dataset acme/chats --format-type sharegpt \
  --lora-r 16 --learning-rate 1e-4 --max-steps 200 --train-on-completions
