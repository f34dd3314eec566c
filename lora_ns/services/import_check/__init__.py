"""`lorans import --check`: what the other tool would train, beside what the imported recipe trains.

One small reader per tool (`axolotl.py`) follows the rules that its documentation and source state, and shares nothing
with the importer but the parsing of values. A mistake in one of the two therefore shows up as a difference. To add a
tool, write its reader and a line in `READERS` of `check.py`.
"""
