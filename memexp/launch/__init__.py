"""How jobs are started: Hydra's sweeps, processes side by side, and how far they are. Never imports torch."""
