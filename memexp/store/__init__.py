"""Run folders: their files, their identity, and how runs and scores are looked up. Never imports torch."""
