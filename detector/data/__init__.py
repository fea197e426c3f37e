"""Data: find it, read it strictly, letterbox it, batch it.

Data flows one way: sources → yolo (listing, labels, images) → loader (geometry, augment, yolo_augment), or
→ statistics → preflight for the check.
Only `loader` imports torch, and only `yolo_augment` ultralytics, when it is used.
"""
