"""Finished runs side by side: what they are, what may be compared, the tables and the web page."""
