"""`detector check`: a dataset, examined before training."""
