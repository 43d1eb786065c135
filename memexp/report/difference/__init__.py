"""Which tokens gain from one score to another: the numbers, and the page, files and terminal text that show them."""
