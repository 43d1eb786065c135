"""Starting jobs: Hydra's sweeps, parallel processes, and their progress. Never imports torch."""
