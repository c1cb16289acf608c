"""The documents say what is so: their commands and programs run, and their references are complete."""
