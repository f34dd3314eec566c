"""Starting processes and waiting for them: torchrun, ranks, workers that answer, jobs."""
