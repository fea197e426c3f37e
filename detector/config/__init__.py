"""The configuration: its schema, how files are read and merged, and how errors are worded."""
