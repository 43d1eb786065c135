"""memexp: train, evaluate and compare transformers with memory, with one interface and one data pipeline."""

__version__ = "0.1.0"

from memexp.api import TextScore, Trained, load, runs, score, table

__all__ = ["TextScore", "Trained", "load", "runs", "score", "table"]
