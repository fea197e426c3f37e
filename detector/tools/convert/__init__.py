"""Annotations of other tools into the YOLO format: read, look at the images, split, write.

`voc` and `coco` read a format into `records`; `conversion` does the rest, the same for both.
"""
