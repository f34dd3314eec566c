"""The verbs: one public function each, from a run or a recipe and options to a typed result."""
