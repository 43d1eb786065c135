"""One command that checks a GPU: whether values are those of the CPU, and how far times are from what the device can do."""
