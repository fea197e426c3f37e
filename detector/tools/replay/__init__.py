"""`detector replay`: a step whose numbers were not finite, once more."""
