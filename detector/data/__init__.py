"""Data: find it, read it strictly, letterbox it, batch it.

Data flows one way: sources → yolo (labels, images) → loader (geometry, augment).
Only `loader` imports torch.
"""
