"""The commands around training, one folder each; none imports another, and nothing below imports them."""
