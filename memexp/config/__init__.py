"""All settings: the schemas, the checks, and the way from a command line to an instance. Never imports torch."""
