"""Files of any kind: opened with limits, written whole or not at all, marked, locked and removed."""
