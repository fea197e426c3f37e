"""`detector init`: a small project of one's own, to start from."""
