"""Files of any kind: read with limits, written atomically, marked as complete, locked and removed."""
