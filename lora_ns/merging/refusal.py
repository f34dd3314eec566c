"""The reason why a model cannot be merged module by module."""

from __future__ import annotations


class WholeModelError(Exception):
    """The merge needs the whole model in memory. The text is the reason, as the middle of a sentence."""
