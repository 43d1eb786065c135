"""One file for each command: `run(config)` does what the command says."""
