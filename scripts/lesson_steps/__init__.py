"""What the lesson measures, a module a page; `scripts/lesson.py` runs it."""
