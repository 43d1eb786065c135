"""Evaluation: every token of a document, or of its answers, scored once, with its nats kept."""
