"""A fault is of as few requests as can be: who made a step raise, and whether anything can be computed at all."""
