"""Experiments: a paper's table with its rows, columns and two scales, and the runs that fill it. Never imports torch."""
