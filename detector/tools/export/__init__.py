"""`detector export`: a trained detector for other programs."""
