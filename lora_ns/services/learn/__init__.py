"""`validate --learn`: train and answer eight rows as a run and its users do, or name the cause."""
