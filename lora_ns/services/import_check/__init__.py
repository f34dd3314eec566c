"""Comparison of an imported recipe with the configuration of the other tool, for `lorans import --check`.

Each tool has a small reader, such as `axolotl.py`, that follows the tool's documentation and source. It shares only the
parsing of values with the importer, so a mistake in either of them shows up as a difference. To add a tool, write its
reader and add it to `READERS` in `check.py`.
"""
