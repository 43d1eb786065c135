"""What a corpus is like."""
