"""Schedulers that start jobs on a cluster: SLURM and Ray."""
