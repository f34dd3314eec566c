"""The board: a local page over all runs below a folder, which only reads."""
