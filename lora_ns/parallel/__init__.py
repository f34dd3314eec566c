"""Training in several processes: groups, sharded weights, context parallelism, nodes, and a common stop."""
