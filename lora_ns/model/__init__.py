"""The base model: its files, weights, modules and tokenizer, and the adapter on it."""
