"""Fitting: the engine, the optimiser and its schedule, the metrics and the checkpoints."""
