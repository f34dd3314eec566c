"""Starting processes and waiting for them: torchrun, ranks, inference workers, scheduler jobs."""
