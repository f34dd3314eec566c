"""Training: from a prepared run to a saved adapter that is checked against the trained model."""
