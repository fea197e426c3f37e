"""Where the curves go: the console, the run's own files, Weights & Biases and TensorBoard, behind one interface."""
