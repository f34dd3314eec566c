"""Fitting: from a prepared run to a saved adapter that was held against what was trained."""
