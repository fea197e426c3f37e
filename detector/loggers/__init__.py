"""Where the curves go: console, the run's own files, W&B and TensorBoard, behind one interface."""
