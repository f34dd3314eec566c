"""The streaming merge: one module at a time from the base's weight files into new shards."""
