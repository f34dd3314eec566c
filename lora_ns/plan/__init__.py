"""Every number of a run that is derived, with where it comes from; nothing here imports torch."""
