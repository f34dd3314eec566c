swift rlhf --rlhf_type dpo --model acme/chat-7b --dataset acme/choices --beta 0.1 --rpo_alpha 0.1
