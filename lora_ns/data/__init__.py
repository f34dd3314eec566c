"""The nouns: model, tokenizer, rows, adapter, trainer. The only code that imports torch and its libraries.

They are imported inside functions, so that importing a module of this package costs nothing.
"""
