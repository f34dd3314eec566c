"""`sweep` and `find-lr`: trials with other settings, on one base in memory, compared on the same rows."""
