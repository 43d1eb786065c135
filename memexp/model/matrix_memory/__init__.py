"""Memories that are matrices of a fixed size: keys are written together with values, and queries read the values."""
