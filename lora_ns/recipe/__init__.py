"""The recipe: its tables, read strictly, and every problem with its file and line."""
