"""`detector dashboard`: the W&B workspace as code."""
