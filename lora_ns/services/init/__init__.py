"""`lorans init`: a recipe for your rows and base model, with a reason for each choice."""
