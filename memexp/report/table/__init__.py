"""Runs side by side in one table."""
