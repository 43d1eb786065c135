"""Evaluation: the nats of every scored token, and the text that a model generates."""
