"""The way of a row: from where it lies to tokens, mixed, rendered, encoded, looked at and kept."""
