"""Memories with a fixed number of vectors: how tokens read them, and how they are rewritten."""
