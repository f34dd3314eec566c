"""The directory of a run: manifest, checkpoints, metrics, and the observer of a run in progress."""
