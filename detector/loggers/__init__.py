"""Where the curves go: the console, the run's own files and Weights & Biases, behind one interface."""
