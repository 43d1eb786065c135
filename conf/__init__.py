"""Hydra's configuration files; README.md says what each group builds."""
