"""The command `symtune`, one module a command: the only room that names the graph's tables."""
