"""How each kind of file is read, one file per kind."""
