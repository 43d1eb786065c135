"""Runs as folders: what is in them, what makes two runs one, and how they are found. Never imports torch."""
