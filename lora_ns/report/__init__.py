"""The pages about runs: curves, plots, verdicts and self-contained HTML, read from run directories without torch."""
