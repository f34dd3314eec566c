"""From data files to tokens: rows are read, mixed, rendered, encoded, audited and cached."""
