"""How much memory a run needs, from sizes alone."""
