"""Which tokens gain between two scores: numbers, page, files and terminal."""
