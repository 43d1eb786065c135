"""A memory of key-value pairs: how they are stored, how the nearest pairs are found, and how tokens attend to them."""
