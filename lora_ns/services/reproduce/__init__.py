"""Repeating a run: what is another here than it was then, the training from its own record, and the comparison."""
