"""The computation of one step, and its record."""
