"""`detector reproduce`: a run repeated and compared."""
