"""Where the curves go: the console, the run's own files and Weights & Biases, behind one interface.

The engine knows only `tracker.Tracker`. The local history is the truth; everything else may fail
without stopping a run.
"""
