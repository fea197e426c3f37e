"""Processes, files, signals and memory: what a run needs from the machine, and nothing about detection."""
