"""What a run learns: one file per objective."""
