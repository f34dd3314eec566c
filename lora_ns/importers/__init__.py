"""Translation of other tools' configurations into recipes.

`lorans import FILE` reads one file. To add a tool, write one file and one line:

1. `importers/TOOL.py` defines an `Importer` (`importers/base.py`): the keys that only this tool has (`signs`), a table
   of rules, one for each simple key (`importers/rules.py`), and steps: functions for keys that belong together
   (`importers/steps.py` has those that several tools share: batches, optimizers, intervals, trackers).
2. `importers/registry.py` lists it in `IMPORTERS`.

Read `axolotl.py` first. No key is lost: a key that no rule and no step handles is refused.
This room is below `recipe`: it writes dotted keys and plain values, and `services/import_.py` checks them.
"""
