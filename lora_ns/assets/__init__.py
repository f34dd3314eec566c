"""Data that ships with the package: the small base model `nano`, and the quickstart rows for fine-tuning it."""
