"""Data: find it, read it strictly, letterbox it, batch it.

Data flows one way: sources → yolo (labels, images) → loader (geometry, augment, yolo_augment).
Only `loader` imports torch, and only `yolo_augment` ultralytics, when it is used.
"""
