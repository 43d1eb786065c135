"""Starting jobs: Hydra's sweeps, parallel processes, jobs of a cluster, and their progress. Never imports torch."""
