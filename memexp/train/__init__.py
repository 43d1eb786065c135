"""Training: one loop for every architecture, and the checkpoints from which a run continues."""
