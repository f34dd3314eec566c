"""Programs that a model wrote, run apart from everything else: walls, limits, verdicts."""
