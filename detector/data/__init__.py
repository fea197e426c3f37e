"""Data: find it, read it strictly, letterbox it, batch it.

Data flows one way: sources → yolo (listing, labels, images) → loader (geometry, augment), or
→ statistics → preflight for the check.
Only `loader` imports torch.
"""
