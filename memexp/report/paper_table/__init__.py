"""A paper's table beside ours."""
