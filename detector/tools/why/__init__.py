"""Is it the gradient? The crossed experiment: forward pass against gradient, and what decides."""
