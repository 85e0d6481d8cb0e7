"""What the project's own commands share; no part of the program."""
