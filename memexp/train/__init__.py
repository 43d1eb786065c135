"""Training: one loop that knows no architecture, and what makes a run a folder that can be gone on with."""
