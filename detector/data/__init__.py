"""Data: find it, read it strictly, letterbox it, batch it.

Data flows one way: sources → dataset (listing, labels, images) → loader (geometry, augment,
augment_ultralytics), or → statistics → preflight for the check. Only `loader` and
`batch` import torch.
"""
