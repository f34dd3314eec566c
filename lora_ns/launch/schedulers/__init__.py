"""What starts jobs on a cluster: SLURM and Ray."""
