"""Experiments: a paper's table as rows, columns and two scales, and the runs and scores that fill it. Never imports torch."""
