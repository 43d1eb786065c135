"""Every setting: the schemas by group, what is refused, and how a command line becomes an instance. Never imports torch."""
