"""Fine-tune language models with adapters: one recipe, one command, a run that can be trusted."""

__version__ = "0.1.0"
