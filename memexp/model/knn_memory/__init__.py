"""A memory of key-value pairs: where they are stored, how the nearest are found, and how they are attended to."""
