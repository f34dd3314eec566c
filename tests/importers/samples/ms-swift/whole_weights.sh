nproc=4
NPROC_PER_NODE=$nproc swift pt --model acme/base-7b --tuner_type full \
  --dataset acme/novels --streaming true --max_steps 1000 --packing=true \
  --gradient_accumulation_steps $(expr 64 / $nproc) --max_length 8192 --attn_impl flash_attn
