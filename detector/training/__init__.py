"""Fitting: the engine, what it changes, its callbacks, the metrics and the checkpoints."""
