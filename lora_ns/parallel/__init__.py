"""Being one of several processes: groups, shards, long rows in parts, machines, and stopping together."""
