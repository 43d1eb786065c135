"""The command line: `main` takes the command's name off and passes the rest to Hydra; `commands` has a file per command."""
