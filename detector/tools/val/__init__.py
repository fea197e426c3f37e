"""`detector val`: mAP on a split, and its reasons."""
