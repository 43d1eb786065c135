"""One file for each command; its `run(config)` executes the command."""
