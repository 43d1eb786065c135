"""The command line: one thin file a command; `main` pops the command's word and hands the rest to Hydra."""
