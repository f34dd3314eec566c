"""Model families: every weight of a model, from its settings alone. Imports no torch."""
