"""Reports on corpora: the list of them, and statistics of a single corpus."""
