"""One question per module: its docstring asks it, its `ROWS` answer it."""
