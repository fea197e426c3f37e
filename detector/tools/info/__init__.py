"""`detector info`."""
