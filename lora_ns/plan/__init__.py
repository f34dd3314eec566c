"""The plan of a run: every derived number with its origin. Nothing here imports torch."""
