"""A compact YOLO-style detector whose gradients can be watched, layer by layer."""

__version__ = "0.1.0"
