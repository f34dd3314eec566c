"""Limits on text and code from strangers: hidden secrets, terminal escapes, deadlines and imports."""
