"""The verbs of lorans: one public function each, from a recipe or run and options to a typed result."""
