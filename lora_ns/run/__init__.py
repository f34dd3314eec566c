"""The directory of a run: its manifest, its checkpoints, its metrics, and who watches it."""
