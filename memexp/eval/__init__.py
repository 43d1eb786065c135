"""Evaluation: every token of a document scored once, with its nats kept."""
