"""`lorans init`: a recipe for the rows and the base at hand, each choice with its reason."""
