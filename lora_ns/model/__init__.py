"""The base: its files, its weights, its modules, its tokenizer, and the adapter on it."""
