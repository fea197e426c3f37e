"""`detector theory`: predicted and measured backward factors."""
