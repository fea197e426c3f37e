"""What pages of results have in common: the look of a figure, and of a page."""
