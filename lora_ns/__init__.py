"""Fine-tune language models with adapters: one recipe, one command, a run that can be trusted."""

from __future__ import annotations

__version__ = "0.1.0"
