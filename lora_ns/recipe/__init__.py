"""What the user writes: the tables of a recipe, read strictly, with every problem located."""
